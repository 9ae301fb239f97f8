"""A new drafter begins with the target's own layers, however the target stores them."""

from pathlib import Path

import numpy as np
import pytest

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.adapters.loading import load_target
from dflash_serve.training.drafter.initialise import (
    DrafterShape,
    drafter_config,
    new_drafter,
    start_from_target,
)
from tests.adapters.quantised import write_quantised
from tests.tiny import TARGET, write_target


def new(target: LayeredTarget, width: int | None = None) -> DFlashDrafter:
    """Two layers over taps of three of the target's four; ``width`` of its MLP."""
    shape = DrafterShape(95, 2, target_layer_ids=(0, 1, 3), intermediate_size=width)
    return new_drafter(drafter_config(TARGET, shape), target, seed=5)


def loaded(directory: Path) -> LayeredTarget:
    target = load_target(directory)
    assert isinstance(target, LayeredTarget)
    return target


@pytest.mark.parametrize(("bits", "slack"), [(0, 0), (4, 0.15), (8, 0.01)])
def test_draft_layers_begin_as_the_targets(tmp_path: Path, bits: int, slack: float) -> None:
    """Layers 0 and 1 of 2 become layers 1 and 2 of 4, also of a target in 4 or 8 bits."""
    whole = loaded(write_target(tmp_path / "whole"))
    target = loaded(write_quantised(tmp_path / "target", bits)) if bits else whole
    drafter = new(target)
    assert start_from_target(drafter, target) == []
    for own, source in ((0, 1), (1, 2)):
        layer = drafter.model.layers[own]
        for path, module in (
            ("self_attn.q_proj", layer.self_attn.q_proj),
            ("mlp.up_proj", layer.mlp.up_proj),
        ):
            exact = whole.weight(f"model.layers.{source}.{path}")
            assert exact is not None
            wanted, got = np.array(exact), np.array(module.weight)
            assert np.abs(got - wanted).max() <= slack * np.abs(wanted).max()
    # Layer 2 reads what layer 1 leaves: the second of three taps.
    diagonal = np.diag(np.array(drafter.model.fc.weight)[:, 64:128])
    assert (np.abs(diagonal - 1) < 0.1).all()


def test_what_has_another_shape_stays_random_and_is_named(tmp_path: Path) -> None:
    target = loaded(write_target(tmp_path / "target"))
    drafter = new(target, width=20)
    kept = np.array(drafter.model.layers[0].mlp.up_proj.weight)
    parts = [
        f"layers.{i}.mlp.{part}_proj.weight" for i in (0, 1) for part in ("down", "gate", "up")
    ]
    assert start_from_target(drafter, target) == parts
    np.testing.assert_array_equal(np.array(drafter.model.layers[0].mlp.up_proj.weight), kept)
