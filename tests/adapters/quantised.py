"""Quantised tiny targets, made with mlx-lm's own quantisation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import quantize_model

from tests.adapters.upstream import load_upstream
from tests.tiny import write_checkpoint, write_target


def write_quantised(directory: Path, bits: int, **changes: Any) -> Path:
    """A 4 or 8 bit target in the layout that mlx-lm's convert writes."""
    return write_in_mode(directory, Mode(32, bits), **changes)


@dataclass(frozen=True, slots=True)
class Mode:
    """A quantisation of mlx-lm's. ``parts``: those of modules whose path ends so; False is none."""

    group_size: int
    bits: int
    name: str = "affine"
    parts: Mapping[str, dict[str, Any] | bool] = field(default_factory=dict)

    def of(self, path: str, module: nn.Module) -> dict[str, Any] | bool:
        """As mlx-lm asks it of every module."""
        return next((part for end, part in self.parts.items() if path.endswith(end)), True)


def write_in_mode(directory: Path, mode: Mode, **changes: Any) -> Path:
    """A target whose matrices are quantised like that, in the layout of mlx-lm's convert."""
    model, config = load_upstream(write_target(directory / "whole", **changes))
    predicate = mode.of if mode.parts else None
    model, config = quantize_model(
        model, config, mode.group_size, mode.bits, mode.name, quant_predicate=predicate
    )
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return write_checkpoint(directory / "quantised", config, weights)
