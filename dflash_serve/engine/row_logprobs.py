"""Log-probabilities of tokens that rows chose, or that stand in their prompts. Reads the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dflash_serve.engine.types import TokenLogprob
from dflash_serve.kernels.token_logprobs import TokenLogprobs, token_logprobs

_SLICE = 64
"""Prompt positions whose logits exist at the same time."""


@dataclass(frozen=True, slots=True)
class WantedLogprobs:
    """The tokens chosen from position 0 of row ``index`` on, and how many beside each."""

    index: int
    tokens: tuple[int, ...]
    top: int


def chosen_logprobs(
    logits: mx.array, wanted: Sequence[WantedLogprobs]
) -> dict[int, tuple[TokenLogprob, ...]]:
    """Logits [R, width, V] -> entries per row index, one per token."""
    if not any(row.tokens for row in wanted):
        return {}
    width = logits.shape[1]
    places = [row.index * width + at for row in wanted for at in range(len(row.tokens))]
    rows = logits.reshape(-1, logits.shape[-1])[mx.array(places)]
    tokens = np.array([token for row in wanted for token in row.tokens], dtype=np.int32)
    found = token_logprobs(rows, tokens, max(row.top for row in wanted))
    entries, start = {}, 0
    for row in wanted:
        end = start + len(row.tokens)
        entries[row.index] = _entries(found, range(start, end), row.tokens, row.top)
        start = end
    return entries


def prompt_logprobs(
    hidden: mx.array, following: Sequence[int], top: int, logits: Callable[[mx.array], mx.array]
) -> tuple[TokenLogprob, ...]:
    """Hidden [q, H] of one row -> entries of the tokens that follow the first of its positions.

    ``logits`` is the target's head. At most `_SLICE` rows of logits exist at a time.
    """
    entries: tuple[TokenLogprob, ...] = ()
    for start in range(0, len(following), _SLICE):
        tokens = following[start : start + _SLICE]
        rows = logits(hidden[start : start + len(tokens)])
        found = token_logprobs(rows, np.array(tokens, dtype=np.int32), top)
        entries += _entries(found, range(len(tokens)), tokens, top)
    return entries


def _entries(
    found: TokenLogprobs, places: range, tokens: Sequence[int], top: int
) -> tuple[TokenLogprob, ...]:
    chosen = found.chosen.tolist()
    ids, values = found.ids[:, :top].tolist(), found.values[:, :top].tolist()
    return tuple(
        TokenLogprob(token, chosen[at], tuple(zip(ids[at], values[at], strict=True)))
        for at, token in zip(places, tokens, strict=True)
    )
