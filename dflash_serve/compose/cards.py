"""Facts about a target and a drafter, read from their small files. Loads no weights."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import (
    fingerprint,
    read_config,
    read_generation_config,
    stop_token_ids,
)
from dflash_serve.adapters.dflash_config import DFlashConfig
from dflash_serve.adapters.loading import read_drafter_config
from dflash_serve.adapters.target_config import text_config
from dflash_serve.compose.directories import DEMO_NAME
from dflash_serve.compose.drafting import DrafterCard
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.engine.types import SamplingParams

_SAMPLING: dict[str, tuple[type, int, int]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 2**31 - 1),
    "min_p": (float, 0, 1),
}
"""Keys of generation_config.json that are defaults of requests: type and range."""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The one model that is run, as its users see it.

    ``sampling`` holds the defaults for requests that leave a parameter out.
    ``created`` is a Unix time in seconds. ``max_context`` is what was asked for; the engine may
    hold less. ``vocab_size`` is the number of logits. ``fingerprint`` changes with the weights.
    """

    id: str
    created: int
    max_context: int
    vocab_size: int
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=1.0))
    stop_tokens: frozenset[int] = frozenset()
    fingerprint: str = ""


def model_card(options: EngineOptions, target: Path, name: str | None = None) -> ModelCard:
    """The facts about the target in a directory; ``name`` replaces the one it was asked for by.

    Raises:
        AdapterError: the directory holds no checkpoint.
        OptionsError: the context that is wanted is not the model's.
    """
    text = text_config(read_config(target))
    own_context = int(text.get("max_position_embeddings") or 0)
    if own_context and options.max_context > own_context:
        raise OptionsError(
            f"--max-context is {options.max_context}, but the model's context is {own_context}"
        )
    if not own_context and not options.max_context:
        raise OptionsError(f"{target} does not say max_position_embeddings: give --max-context")
    vocab_size = int(text.get("vocab_size", 0))
    return ModelCard(
        id=name or (DEMO_NAME if options.target is None else options.target),
        created=int(time.time()),
        max_context=options.max_context or own_context,
        vocab_size=vocab_size,
        sampling=_default_sampling(read_generation_config(target)),
        stop_tokens=stop_tokens(target),
        fingerprint=fingerprint(target),
    )


def stop_tokens(target: Path) -> frozenset[int]:
    """The tokens that end an answer of the target in a directory, wherever it is run.

    Raises:
        AdapterError: the directory holds no checkpoint.
    """
    # an id that the model has no logit for never comes
    vocab_size = int(text_config(read_config(target)).get("vocab_size", 0))
    return frozenset(one for one in stop_token_ids(target) if one < vocab_size or not vocab_size)


def drafter_card(options: EngineOptions, drafter: Path | None) -> DrafterCard:
    """The facts about a drafter, from its small files and the ends of its weights.

    Raises:
        AdapterError: the directory holds no drafter that can be run.
        OptionsError: the block size that is wanted is not the drafter's.
    """
    if drafter is None:
        return DrafterCard()
    block = block_size(options, drafter)
    return DrafterCard(_drafter_name(options, drafter), block, fingerprint(drafter))


def block_size(options: EngineOptions, drafter: Path | None) -> int:
    """Tokens verified per row and round: 1 without a drafter, else as asked or as it advises.

    Raises:
        AdapterError: it is no drafter that can draft by itself.
        OptionsError: it is more than the drafter was trained with.
    """
    if drafter is None:
        return 1
    config = first_config(drafter)
    if options.block_size > config.block_size:
        raise OptionsError(
            f"--block-size is {options.block_size}, but the drafter was trained "
            f"with {config.block_size}"
        )
    return options.block_size or config.runtime_block_size


def first_config(drafter: Path) -> DFlashConfig:
    """The config of a drafter that is to draft by itself.

    Raises:
        AdapterError: it cannot be served, or is a VP-drafter.
    """
    config = read_drafter_config(drafter)
    if config.prefix_weight_base:
        raise AdapterError(
            f"drafter {drafter} is a VP-drafter, which only goes on behind another's drafts "
            "(dflash-serve --second-drafter)"
        )
    return config


def _default_sampling(generation: dict[str, Any]) -> SamplingParams:
    """The checkpoint's own defaults; OpenAI's (temperature 1) where it has none."""
    if generation.get("do_sample") is False:
        return SamplingParams(temperature=0.0)
    defaults = SamplingParams(temperature=1.0)
    known = {
        name: _within(name, generation[name])
        for name in _SAMPLING
        if generation.get(name) is not None
    }
    return replace(defaults, **known)


def _within(name: str, value: Any) -> Any:
    """A default of generation_config.json; a ``top_k`` of -1 is none, as in requests.

    Raises:
        OptionsError: it is no number, or out of range.
    """
    kind, least, most = _SAMPLING[name]
    number = type(value) is int or (kind is float and type(value) is float)
    if not number or not least <= value <= most:
        wanted = "an integer" if kind is int else "a number"
        raise OptionsError(
            f"generation_config.json: {name} is {value!r:.80}, but must be {wanted} from {least} "
            f"to {most}"
        )
    return max(kind(value), 0)


def _drafter_name(options: EngineOptions, drafter: Path) -> str:
    if options.drafter != "auto":
        return options.drafter
    return f"{DEMO_NAME}-drafter" if options.target is None else drafter.name
