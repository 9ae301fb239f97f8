"""The kernels' benchmark: both matmul libraries are measured, and the forms of every kernel."""

import sys

import pytest

from dflash_serve.bench.kernels import Shape, run
from dflash_serve.bench.options import KernelsOptions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is compared elsewhere")


def test_each_shape_gets_times_of_both_libraries() -> None:
    shapes = (Shape("projection", 8, 96, 64), Shape("values", 2, 64, 33, weight=False))
    result = run(KernelsOptions(repeats=3), shapes, vocab=1000).measured
    forms = {(row["kernel"], row["form"]) for row in result["forms"]}
    assert {("tree_scan", "plain"), ("gated_delta", "mlx-lm")} <= forms
    for row in result["forms"]:
        assert 0 < row["min_ms"] <= row["ms"]
    assert result["libraries"]["ours"]["state"] == "loaded"
    assert result["libraries"]["stock"]["state"] == "off"
    assert [(row["name"], row["m"], row["n"], row["k"]) for row in result["matmul"]] == [
        ("projection", 8, 96, 64),
        ("values", 2, 64, 33),
    ]
    for row in result["matmul"]:
        for library in ("ours", "stock"):
            assert 0 < row[library]["min"] <= row[library]["median"]
        assert row["speedup"].keys() == {"median", "min", "cpu_min"}
