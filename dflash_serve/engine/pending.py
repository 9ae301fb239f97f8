"""What a step has chosen: lazily on the device, then on the host and in the rows' states."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from dflash_serve.engine.constraint import ConstraintError, Walk
from dflash_serve.engine.plan import Chosen, DecodeRow, PrefillRow
from dflash_serve.engine.rounds import Forward, Verdict
from dflash_serve.engine.row_logprobs import WantedLogprobs, chosen_logprobs
from dflash_serve.engine.row_state import RowStates
from dflash_serve.engine.types import TokenLogprob

Walks = Sequence[Walk | str | None]
"""How far each constrained row's draft went, or why the row fails."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Choices that are not computed yet, for rows in order.

    ``verdict`` is lazy. ``prompts``: log-probabilities of the chunks of prefill rows, empty where
    nobody asked. ``forward``: the pass whose caches wait for the host to count what is committed.
    ``nodes``: of the trees that were verified, 0 for chains.
    """

    rows: Sequence[PrefillRow | DecodeRow]
    verdict: Verdict
    walks: Walks
    prompts: Sequence[tuple[TokenLogprob, ...]] = ()
    forward: Forward | None = None
    nodes: int = 0

    @property
    def lazy(self) -> list[mx.array]:
        return [array for array in self.verdict if array is not None]

    @property
    def numbers(self) -> list[int]:
        return [row.row for row in self.rows]


def taken(pending: Pending, states: RowStates) -> list[Chosen]:
    """The tokens of an evaluated verdict, as far as each row's state takes them."""
    return [
        _commit(row, tokens, walk, states)
        for row, tokens, walk in zip(
            pending.rows, pending.verdict.tokens(), pending.walks, strict=True
        )
    ]


def with_logprobs(
    pending: Pending, chosen: Sequence[Chosen], states: RowStates
) -> tuple[Chosen, ...]:
    """``chosen`` with the log-probabilities of the rows that asked; a second sync if any did."""
    entries = _entries(pending, chosen, states)
    prompts = pending.prompts or [()] * len(chosen)
    return tuple(
        replace(one, logprobs=entries.get(index, ()), prompt_logprobs=prompt)
        if index in entries or prompt
        else one
        for index, (one, prompt) in enumerate(zip(chosen, prompts, strict=True))
    )


def _entries(
    pending: Pending, chosen: Sequence[Chosen], states: RowStates
) -> dict[int, tuple[TokenLogprob, ...]]:
    """By row index."""
    if pending.verdict.logits is None:
        return {}
    wanted = [
        WantedLogprobs(index, chosen[index].tokens, state.spec.logprobs)
        for index, row in enumerate(pending.rows)
        if (state := states.get(row.row)) is not None and state.spec.logprobs is not None
    ]
    return chosen_logprobs(pending.verdict.logits, wanted)


def _commit(
    row: PrefillRow | DecodeRow,
    tokens: tuple[int, ...],
    walk: Walk | str | None,
    states: RowStates,
) -> Chosen:
    if isinstance(walk, str):
        return Chosen((), failure=walk)
    state = states.get(row.row)
    if state is None or (isinstance(row, PrefillRow) and not row.last):
        return Chosen(tokens)
    try:
        return Chosen(tokens[: state.commit(tokens)])
    except ConstraintError as error:
        return Chosen((), failure=str(error))
