"""What passes between scheduler and runner: small bundles of ints, ready to send to other ranks.

A row is known by a number that no other row of the engine's life has; its caches are its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dflash_serve.engine.types import (
    LogitRules,
    SamplingParams,
    ThinkingRule,
    TokenGrammar,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True)
class RowSpec:
    """What a row asks for beside sampling; a row without a spec is argmax or a keyed draw.

    ``stop_tokens`` end the row. Fields are those of `EngineRequest`.
    """

    rules: LogitRules
    stop_tokens: frozenset[int]
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: TokenGrammar | None = None
    thinking: ThinkingRule | None = None


@dataclass(frozen=True, slots=True)
class OpenedRow:
    """Row ``row`` begins and has a spec.

    ``generated``: tokens that were generated already, of a row that begins anew; its first prefill
    chunks run over the prompt and them.
    """

    row: int
    spec: RowSpec
    generated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """Known tokens [start, start + len(tokens)) of ``row``: its prompt, and what it generated
    before it began anew.

    ``last``: no known token follows them, so the next token is chosen after them. ``following`` is
    the known token that follows, -1 behind the last.
    """

    row: int
    start: int
    tokens: tuple[int, ...]
    last: bool
    sampling: SamplingParams
    following: int = -1


@dataclass(frozen=True, slots=True)
class DecodeRow:
    """One row of a round: draft after ``anchor`` and verify ``block`` tokens, the anchor included.

    ``length`` is the number of tokens in the row's caches, and so the anchor's position.
    """

    row: int
    length: int
    anchor: int
    block: int
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class ContextRow:
    """Tokens [start, start + len(tokens)) of ``row`` that only the target's cache holds.

    A drafter that was swapped in since gets its context of them.
    """

    row: int
    start: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: context or a prefill chunk, then a round.

    ``closed``: rows that have ended since the last plan, whose caches are freed first; a plan may
    hold nothing else. ``opened``: rows with a spec that begin in this plan's prefill. A row's
    caches begin with its first prefill chunk. ``nodes``: tokens that the round verifies of a tree
    per row, the anchor included, no deeper than its block; 0: chains. A runner may take chains
    where trees cannot be had.
    """

    closed: tuple[int, ...] = ()
    opened: tuple[OpenedRow, ...] = ()
    context: tuple[ContextRow, ...] = ()
    prefill: tuple[PrefillRow, ...] = ()
    decode: tuple[DecodeRow, ...] = ()
    nodes: int = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a step chose for one row: at least one token, unless it failed.

    ``logprobs`` has one entry per token where the row asked for them; ``prompt_logprobs`` those of
    the prompt's tokens behind the first of a prefilled chunk, up to the one that follows it.
    ``failure``: why the row cannot go on, in one line.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What the device chose.

    prefill: one per prefill row; its one token is meaningful where ``last``. decode: per decode
    row the accepted drafts and the bonus token. device_time: seconds spent in MLX calls. nodes: as
    in the plan, of what was verified. cold: the round took longer than the next ones of its shape,
    since its graph was not traced yet.
    """

    prefill: tuple[Chosen, ...] = ()
    decode: tuple[Chosen, ...] = ()
    device_time: float = 0.0
    nodes: int = 0
    cold: bool = False


class RowBytes(Protocol):
    """What the caches of one row cost."""

    def __call__(self, tokens: int) -> int:
        """Bytes that a row which holds ``tokens`` tokens takes in all caches, as allocated."""
        ...


def nothing() -> None:
    """What the host does while a step runs, unless it has something to do."""


class Runner(Protocol):
    """Executes plans. Lives on one thread."""

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        """Make a step. ``meanwhile`` is called once, when the device has it to compute."""
        ...

    def reset(self) -> None:
        """Forget every row and free its caches, as after a step that raised; weights stay."""
        ...

    def close(self) -> None:
        """Let go of everything on the device. Called last, on the runner's own thread."""
        ...
