"""Drafters on disk as the commands write them."""

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve.adapters.dflash import DFlashModel
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.training.drafter.layout import full_config, write_drafter
from tests.tiny import DRAFTER


def export_drafter(directory: Path, config: dict[str, Any], model: DFlashModel) -> None:
    """Float32, so that nothing is rounded."""
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    write_drafter(directory, full_config(config), weights, "float32")


def masters() -> dict[str, mx.array]:
    """The random float32 weights of `tests.tiny.DRAFTER`, always the same."""
    mx.random.seed(3)
    return dict(tree_flatten(DFlashModel(parse_dflash_config(DRAFTER)).parameters()))
