"""The self-test of a quantised drafter: figures of both in the log, or a refusal with both."""

import logging

import mlx.core as mx
import mlx.nn as nn
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.drafter_bits import quantised
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.compose.cards import block_size
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.drafter_test import DrafterBits, acceptance, check_quantised, questions
from dflash_serve.compose.loading import load, new_drafter
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.engine.runner import DeviceRunner

BITS = DrafterBits(4, DEMO / "target")
BLOCK = block_size(EngineOptions(), DEMO / "drafter-v1")


def uneven(drafter: DFlashDrafter) -> DFlashDrafter:
    """The same function by weights of very unlike sizes within a group, which 4 bits cannot hold.

    What an up projection gives is scaled, and the down projection scaled back.
    """
    for layer in drafter.model.layers:
        scale = 10.0 ** (mx.arange(layer.mlp.up_proj.weight.shape[0]) % 8 - 4)
        layer.mlp.up_proj.weight = layer.mlp.up_proj.weight * scale[:, None]
        layer.mlp.down_proj.weight = layer.mlp.down_proj.weight / scale
    return drafter


def test_a_sound_quantisation_is_logged_with_both_figures(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "dflash_serve"):
        loaded = load(EngineOptions(drafter_bits=4), DEMO / "target", DEMO / "drafter")
        assert isinstance(loaded.runner, DeviceRunner)
        swapped = new_drafter(loaded.runner, DEMO / "drafter-v1", BLOCK, BITS).drafter
    loaded.runner.close()
    assert isinstance(swapped, DFlashDrafter)
    assert isinstance(swapped.model.fc, nn.QuantizedLinear)
    line, swap = [text for text in caplog.messages if "self-test" in text]
    assert "in 4 bits has" in line
    assert "unquantised" in line
    assert "in 4 bits has" in swap


def test_a_quantisation_that_ruins_acceptance_is_refused_with_both_figures() -> None:
    target = load_target(DEMO / "target")
    drafter = uneven(load_drafter(DEMO / "drafter-v1", target))
    with pytest.raises(AdapterError) as refused:
        check_quantised(target, drafter, quantised(drafter, 4), BLOCK, BITS)
    line = str(refused.value)
    assert "\n" not in line
    assert "below 80% of it, --drafter-bits 4 is refused" in line
    asked = questions(DEMO / "target")
    plain = acceptance(target, drafter, BLOCK, asked)
    assert f"unquantised {plain.per_round:.2f}" in line
    assert plain.accepted > 2 * plain.rounds


def test_the_option_takes_4_or_8_bits() -> None:
    with pytest.raises(OptionsError, match=r"--drafter-bits is 5, but must be one of 0, 4, 8"):
        EngineOptions(drafter_bits=5)
    with pytest.raises(OptionsError, match="--drafter-bits is 4, but --speculation off"):
        EngineOptions(drafter_bits=4, speculation="off")
