"""The matmul benchmark: each product is timed in both libraries and their results are compared."""

import sys

import numpy as np
import pytest

from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.matmul import Product, plot, run, tables
from dflash_serve.bench.options import MatmulOptions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is compared elsewhere")

PRODUCTS = (Product("xw", 3, 40, 50), Product("pv", 40, 17, 33), Product("atb", 5, 20, 30))


def test_every_form_gets_speeds_of_both_libraries_and_their_ratios() -> None:
    options = MatmulOptions(turns=1, threads=(1, 2))
    result = run(options, PRODUCTS)
    measured = result.measured
    assert [(row["form"], row["m"], row["n"], row["k"]) for row in measured["products"]] == [
        (product.form, product.m, product.n, product.k) for product in PRODUCTS
    ]
    for row in measured["products"]:
        assert [cell["threads"] for cell in row["counts"]] == [1, 2]
        for cell in row["counts"]:
            for library in ("ours", "openblas"):
                assert 0 < cell[library]["median"] <= cell[library]["best"]
            ratio = cell["ours"]["best"] / cell["openblas"]["best"]
            assert cell["ratio"]["best"] == pytest.approx(ratio, abs=1e-3)
        assert row["ours_2_to_1"] > 0
    assert tables(result)[0].row_count == 2 * len(PRODUCTS)
    assert len(plot(result).axes) == 2


def test_a_wrong_product_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.matmul
    monkeypatch.setattr(np, "matmul", lambda a, b, out: right(a, -b, out=out))
    with pytest.raises(BenchError, match="differs from OpenBLAS"):
        run(MatmulOptions(turns=1, threads=(1,)), PRODUCTS[:1])
