"""Drafters that can be served and not be trained are refused by what they have."""

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.drafter_bits import quantised
from dflash_serve.adapters.loading import load_target
from dflash_serve.training.drafter.initialise import begin_from, load_trainable
from tests.adapters.test_heads import HEADS, write_head
from tests.tiny import DRAFTER, tiny_pair, write_checkpoint, write_target


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("shifted", "shift is 1"),
        ("dspark, not shifted", "markov_rank is 8"),
        ("reduced", "draft_vocab_size is 40"),
        ("own tables", "own_embedding is True"),
    ],
)
def test_heads_without_an_objective_are_refused(tmp_path: Path, head: str, reason: str) -> None:
    target = load_target(write_target(tmp_path / "target"))
    directory = write_head(tmp_path / "drafter", HEADS[head])
    with pytest.raises(AdapterError, match=f"{reason}, which cannot be trained"):
        load_trainable(directory, target)


def test_a_causal_head_is_trained_like_others(tmp_path: Path) -> None:
    target = load_target(write_target(tmp_path / "target"))
    drafter = load_trainable(write_head(tmp_path / "drafter", HEADS["jetspec"]), target)
    assert drafter.config.layer_causal == (True, True)


def test_quantised_weights_are_not_trained(tmp_path: Path) -> None:
    target, drafter = tiny_pair(tmp_path, None, {"intermediate_size": 128})
    assert isinstance(drafter, DFlashDrafter)
    weights: dict[str, mx.array] = dict(tree_flatten(quantised(drafter, 4).model.parameters()))
    settings = {"intermediate_size": 128, "quantization": {"group_size": 64, "bits": 4}}
    directory = write_checkpoint(tmp_path / "stored", DRAFTER | settings, weights)
    with pytest.raises(AdapterError, match="stored in 4 bits and cannot be trained"):
        load_trainable(directory, target)


@pytest.mark.parametrize(
    ("own", "mode", "base", "becomes"),
    [
        (0.7, None, None, 0.7),
        (0.7, None, 0.5, 0.5),
        (0.7, "dflash", None, None),
        (None, None, None, None),
        (None, "vp_drafter", None, 0.9),
    ],
)
def test_a_drafter_goes_on_as_what_it_is_unless_told(
    tmp_path: Path, own: float | None, mode: str | None, base: float | None, becomes: float | None
) -> None:
    target, drafter = tiny_pair(tmp_path, None)
    assert isinstance(drafter, DFlashDrafter)
    stored = {"training_mode": "vp_drafter", "prefix_weight_base": own} if own else {}
    config = DRAFTER | {"dflash_config": DRAFTER["dflash_config"] | stored}
    weights: dict[str, mx.array] = dict(tree_flatten(drafter.model.parameters()))
    directory = write_checkpoint(tmp_path / "stored", config, weights)
    begun = begin_from(directory, target, mode=mode, base=base)
    assert begun.config["dflash_config"].get("prefix_weight_base") == becomes
    assert begun.config["dflash_config"].get("training_mode") == ("vp_drafter" if becomes else None)


def test_a_prefix_base_for_a_plain_drafter_is_refused(tmp_path: Path) -> None:
    target, _ = tiny_pair(tmp_path, None)
    with pytest.raises(AdapterError, match=r"no VP-drafter: --prefix-weight-base 0\.5"):
        begin_from(tmp_path / "drafter", target, mode=None, base=0.5)
