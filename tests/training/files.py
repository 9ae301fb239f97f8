"""Drafters on disk as the commands write them."""

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve.adapters.dflash import DFlashModel
from dflash_serve.training.drafter.layout import full_config, write_drafter


def export_drafter(directory: Path, config: dict[str, Any], model: DFlashModel) -> None:
    """Float32, so that nothing is rounded."""
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    write_drafter(directory, full_config(config), weights, "float32")
