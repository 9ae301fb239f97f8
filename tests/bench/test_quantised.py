"""`dflash-bench quantised` on a tiny target: every form is measured, and says what it is."""

from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.bench import quantised
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import QuantisedOptions
from dflash_serve.bench.quantised import FORMS

pytestmark = pytest.mark.skipif(
    mx.default_device() != mx.Device(mx.cpu), reason="quantised weights stay so on GPUs"
)


def options(**changes: Any) -> QuantisedOptions:
    few = {"group": 32, "tau": 2.0, "block_size": 4, "max_tokens": 8, "repeats": 1}
    return QuantisedOptions(random_target="qwen3-tiny", **(few | changes))


def test_every_form_is_measured_with_equal_tokens() -> None:
    result = quantised.run(options(batch=2))
    assert result.failures == ()
    forms = result.measured["forms"]
    assert [form["name"] for form in forms] == list(FORMS)
    stock, own, wide = forms
    assert stock["held_bytes"] == own["held_bytes"]
    # 4 bits, and a scale and a bias of 32 bits for every 32 weights: 6 bits instead of 32
    assert 4 < wide["held_bytes"] / own["held_bytes"] < 32 / 6
    assert result.measured["stored_bytes"] == own["held_bytes"]
    assert wide["held_bytes"] == 4 * result.measured["parameters"]
    for form in forms:
        assert form["different_answers"] == 0
        assert form["plain_tokens_per_second"] > 0
        assert 1 < form["tokens_per_round"] <= 4
    assert stock["plain_over_base"] == 1.0
    assert len(quantised.tables(result)) == 1
    assert quantised.plot(result).axes


def test_a_quantisation_that_rows_do_not_allow_is_refused() -> None:
    with pytest.raises(BenchError, match="in 4 bits by groups of 128"):
        quantised.run(options(group=128))
