"""The gated delta rule on a CPU: mlx-lm's recurrence, bit for bit, in fewer operations per token.

What needs no state is prepared for all tokens at once, outputs are read from all states at once,
and the state after any token of a forward can be had without another pass. Pays for small states;
`fits` says where.
"""

from dataclasses import dataclass

import mlx.core as mx

SPAN = 32
"""Tokens whose states are held together."""
HELD_BYTES = 4 << 20
"""The most that the states of one span may take, of all rows."""


@dataclass(frozen=True, slots=True)
class DeltaTokens:
    """What the rule reads of R rows' tokens, besides queries.

    keys [R, q, Hk, Dk], normalised; values [R, q, Hv, Dv], Hv a multiple of Hk; decays (of the
    state) and rates (of what is written) [R, q, Hv].
    """

    keys: mx.array
    values: mx.array
    decays: mx.array
    rates: mx.array

    @property
    def width(self) -> int:
        return self.keys.shape[1]

    def part(self, first: int, last: int) -> "DeltaTokens":
        """Tokens [first, last) of every row."""
        return DeltaTokens(
            self.keys[:, first:last],
            self.values[:, first:last],
            self.decays[:, first:last],
            self.rates[:, first:last],
        )

    def each(self) -> list[tuple[mx.array, mx.array, mx.array, mx.array]]:
        """Per token: key [R, 1, Hv, 1, Dk], value, decay and rate [R, 1, Hv, Dv or 1, 1]."""
        keys = per_value_head(self.keys, self.values.shape[2])[..., None, :]
        columns = (
            self.values[..., None],
            self.decays[..., None, None],
            self.rates[..., None, None],
        )
        parts = (mx.split(array, self.width, axis=1) for array in (keys, *columns))
        return list(zip(*parts, strict=True))


def fits(state: mx.array, width: int) -> bool:
    """Whether a forward of ``width`` tokens should run here: its states are small."""
    return (min(width, SPAN) + 1) * state.nbytes <= HELD_BYTES


class DeltaStates:
    """The states [R, Hv, Dv, Dk] before and after each of a few tokens."""

    def __init__(self, tokens: DeltaTokens, state: mx.array) -> None:
        steps = [state[:, None]]
        for key, value, decay, rate in tokens.each():
            steps.append(next_state(steps[-1], key, value, decay, rate))
        self._first, self._later = steps[0], steps[1:]
        self._all = mx.concatenate(steps, axis=1) if tokens.width > 1 else None

    def outputs(self, queries: mx.array) -> mx.array:
        """What the tokens read with ``queries`` [R, q, Hk, Dk]: [R, q, Hv, Dv]."""
        states = self._later[0] if self._all is None else self._all[:, 1:]
        queries = per_value_head(queries, states.shape[2])
        return (states * queries[..., None, :]).sum(axis=-1).astype(queries.dtype)

    def after(self, kept: mx.array) -> mx.array:
        """Each row's state after ``kept`` [R] tokens."""
        if self._all is None:
            return mx.where(kept[:, None, None, None] > 0, self._later[0][:, 0], self._first[:, 0])
        return self._all[mx.arange(kept.shape[0]), kept]


def gated_delta_scan(
    queries: mx.array, tokens: DeltaTokens, state: mx.array, lengths: mx.array
) -> tuple[mx.array, mx.array]:
    """Outputs [R, q, Hv, Dv] of any number of tokens, and the states after ``lengths`` [R]."""
    outputs = []
    for first in range(0, tokens.width, SPAN):
        last = min(first + SPAN, tokens.width)
        states = DeltaStates(tokens.part(first, last), state)
        outputs.append(states.outputs(queries[:, first:last]))
        state = states.after(mx.clip(lengths - first, 0, last - first))
    return mx.concatenate(outputs, axis=1), state


def next_state(
    state: mx.array, key: mx.array, value: mx.array, decay: mx.array, rate: mx.array
) -> mx.array:
    """One step of the rule; the arrays are those of `DeltaTokens.each`."""
    state = state * decay
    found = (state * key).sum(axis=-1, keepdims=True)
    return state + key * ((value - found) * rate)


def per_value_head(array: mx.array, heads: int) -> mx.array:
    """[R, q, Hk, D] -> [R, q, ``heads``, D]; value heads of one key head are neighbours."""
    return mx.repeat(array, heads // array.shape[2], axis=2)
