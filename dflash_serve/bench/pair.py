"""Which target and drafter a measurement runs on: the demo pair, checkpoints, or random weights.

Loads them on the calling thread, which then owns MLX.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import DraftAdapter, FillingDrafter, TargetAdapter
from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.dflash import DFlashDrafter, DFlashModel
from dflash_serve.adapters.dflash_config import default_layer_ids, parse_dflash_config
from dflash_serve.adapters.loading import check_pair
from dflash_serve.adapters.shard_header import read_header
from dflash_serve.adapters.target_config import text_config
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.random_targets import find_random_target
from dflash_serve.compose.directories import DEMO_NAME, checkpoints
from dflash_serve.compose.loading import load_pair as load_stored
from dflash_serve.compose.options import EngineOptions
from dflash_serve.compose.trees import load_second

RANDOM = "random"
"""As a drafter's name: random weights in the published shape, for any stored target."""

_PUBLISHED_LAYERS = (5, 36)
"""Layers of the published drafter for Qwen3-8B and of its target: the shape that is scaled."""


@dataclass(frozen=True, slots=True)
class PairChoice:
    """What the command line asked for. ``random_target`` excludes ``target`` and ``drafter``.

    ``drafter``: ``auto``, ``none``, ``random``, a directory or a hub id. ``draft_layers`` 0 scales
    the published shape. ``block_size`` is the trained block of a random drafter, ``vocab`` another
    vocabulary of a random target; 0 is its own. ``cpu_weights``: of stored ones.
    """

    target: str | None = None
    drafter: str = "auto"
    random_target: str | None = None
    draft_layers: int = 0
    block_size: int = 16
    seed: int = 0
    vocab: int = 0
    cpu_weights: str = "auto"


@dataclass(frozen=True, slots=True)
class Pair:
    """A loaded target and, unless ``none`` was asked for, its drafter.

    ``directory`` holds the target's tokenizer; None for random weights. Parameters are counts.
    """

    name: str
    target: TargetAdapter
    drafter: DraftAdapter | None
    directory: Path | None
    target_parameters: int
    drafter_parameters: int

    def describe(self) -> dict[str, Any]:
        """For a result's settings."""
        drafter = self.drafter
        return {
            "name": self.name,
            "target_parameters": self.target_parameters,
            "target_layers": self.target.num_layers,
            "dtype": str(self.target.dtype).removeprefix("mlx.core."),
            "drafter_parameters": self.drafter_parameters,
            "drafter_layers": len(drafter.cache_specs) if drafter else 0,
            "drafter_block_size": drafter.block_size if drafter else None,
        }


def load_pair(choice: PairChoice) -> Pair:
    """The pair that ``choice`` names.

    Raises:
        AdapterError: it cannot be found or loaded, or its halves do not fit.
    """
    return _stored_pair(choice) if choice.random_target is None else _random_pair(choice)


def drafting_pair(choice: PairChoice) -> Pair:
    """`load_pair` of a choice that has a drafter.

    Raises:
        BenchError: it has none.
    """
    pair = load_pair(choice)
    if pair.drafter is None:
        raise BenchError("there is no drafter to measure; give --drafter or --random-target")
    return pair


def second_of(choice: PairChoice, name: str, pair: Pair, block: int) -> FillingDrafter | None:
    """The second drafter of a name, as `EngineOptions` takes it, for a loaded pair.

    Raises:
        AdapterError: it cannot be found or loaded, or does not fit.
    """
    options = EngineOptions(target=choice.target, second_drafter=name)
    return load_second(options, pair.target, block)


def _stored_pair(choice: PairChoice) -> Pair:
    names = EngineOptions(
        target=choice.target,
        drafter="none" if choice.drafter == RANDOM else choice.drafter,
        cpu_weights=choice.cpu_weights,
    )
    directory, drafter_directory = checkpoints(names)
    target, drafter = load_stored(directory, drafter_directory, names.cpu_weights)
    parameters = 0
    if drafter_directory is not None:
        parameters = stored_parameters(drafter_directory)
    elif choice.drafter == RANDOM:
        drafter, model = random_drafter(text_config(read_config(directory)), choice, target)
        parameters = _parameters(model)
    name = DEMO_NAME if choice.target is None else directory.name
    return Pair(name, target, drafter, directory, stored_parameters(directory), parameters)


def _random_pair(choice: PairChoice) -> Pair:
    name = str(choice.random_target)
    shape = find_random_target(name, choice.vocab)
    target = shape.load(choice.seed)
    drafter, draft_model = random_drafter(shape.config, choice, target)
    return Pair(name, target, drafter, None, _parameters(target), _parameters(draft_model))


def random_drafter(
    config: dict[str, Any], choice: PairChoice, target: TargetAdapter
) -> tuple[DraftAdapter, DFlashModel]:
    """Random weights in the published shape: the target's widths, a scaled number of layers.

    Its layers slide where the target has a window.
    """
    drafted, published = _PUBLISHED_LAYERS
    kind = "full_attention" if config.get("sliding_window") is None else "sliding_attention"
    layers = choice.draft_layers or max(1, round(drafted * target.num_layers / published))
    parsed = parse_dflash_config(
        config
        | {
            "architectures": ["DFlashDraftModel"],
            "block_size": choice.block_size,
            "num_hidden_layers": layers,
            "num_target_layers": target.num_layers,
            "layer_types": [kind] * layers,
            "dflash_config": {
                "mask_token_id": target.vocab_size - 1,
                "target_layer_ids": list(default_layer_ids(target.num_layers, layers)),
            },
        }
    )
    check_pair(parsed, target)
    model = DFlashModel(parsed)
    model.set_dtype(mx.float32)
    model.eval()
    mx.eval(model.parameters())
    return DFlashDrafter(parsed, model, target), model


def _parameters(model: Any) -> int:
    leaves: Iterable[tuple[str, mx.array]] = tree_flatten(model.parameters())
    return sum(array.size for _, array in leaves)


def stored_parameters(directory: Path) -> int:
    """Elements of all tensors in a checkpoint's files, from their headers alone."""
    return sum(
        prod(tensor.shape)
        for path in directory.glob("*.safetensors")
        for tensor in read_header(path).values()
    )
