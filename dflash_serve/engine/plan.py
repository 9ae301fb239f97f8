"""What passes between scheduler and runner: small bundles of ints, ready to send to other ranks.

Slots [0, d) decode and slots [d, rows) prefill; the scheduler keeps them dense by moves.
"""

from dataclasses import dataclass
from typing import Protocol

from dflash_serve.engine.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Move:
    """Slot ``source`` becomes slot ``target``; with ``swap`` also the other way round."""

    source: int
    target: int
    swap: bool = False


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """Prompt tokens [start, start + len(tokens)) of the sequence in ``slot``.

    ``last``: they end the prompt, so the first token is chosen after them.
    """

    slot: int
    start: int
    tokens: tuple[int, ...]
    last: bool
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One row of a round: draft after ``anchor`` and verify ``block`` tokens, the anchor included.

    ``length`` is the number of tokens in the row's caches, and so the anchor's position.
    """

    slot: int
    length: int
    anchor: int
    block: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class ContextRow:
    """Tokens [start, start + len(tokens)) of ``slot`` that only the target's cache holds.

    A drafter that was swapped in since gets its context of them.
    """

    slot: int
    start: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: moves first, then context or a prefill chunk, then a round.

    Rows are in slot order; those of ``context`` and of ``prefill`` are neighbours.
    """

    moves: tuple[Move, ...] = ()
    context: tuple[ContextRow, ...] = ()
    prefill: tuple[PrefillRow, ...] = ()
    decode: tuple[DecodeRow, ...] = ()


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the device chose.

    first_tokens: one per prefill row, meaningful where ``last``. committed: per decode row the
    accepted drafts and the bonus token, at least one. device_time: seconds spent in MLX calls.
    """

    first_tokens: tuple[int, ...] = ()
    committed: tuple[tuple[int, ...], ...] = ()
    device_time: float = 0.0


class Runner(Protocol):
    """Executes plans. Lives on one thread."""

    def run(self, plan: StepPlan) -> StepResult: ...
