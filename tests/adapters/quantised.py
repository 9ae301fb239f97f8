"""Quantised tiny targets, made with mlx-lm's own quantisation."""

from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.utils import quantize_model

from tests.adapters.upstream import load_upstream
from tests.tiny import write_checkpoint, write_target


def write_quantised(directory: Path, bits: int, **changes: Any) -> Path:
    """A 4 or 8 bit target in the layout that mlx-lm's convert writes."""
    model, config = load_upstream(write_target(directory / "whole", **changes))
    model, config = quantize_model(model, config, group_size=32, bits=bits)
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return write_checkpoint(directory / "quantised", config, weights)
