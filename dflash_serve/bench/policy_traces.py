"""Acceptance traces: how many drafts of a request are right from each of its tokens on.

Recorded or made up; they let any choice of blocks be replayed without a device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from dflash_serve.bench.simulated import solve_probability

BLOCKS = (2, 4, 8, 16)
"""Blocks that are recorded, and replayed beside plain decoding."""
_USELESS_TAU, _EASY_TAU = 1.05, 7.0
_SCATTERED = (0.3, 0.97)
_PHASES = (0.95, 0.15)


@dataclass(frozen=True, slots=True)
class Trace:
    """One request. ``accepted`` by block: right drafts behind the anchor at each position.

    Position 0 is the first generated token. A block that was not recorded is a longer one cut.
    """

    kind: str
    accepted: Mapping[int, tuple[int, ...]]

    @property
    def block(self) -> int:
        """The longest that was recorded."""
        return max(self.accepted)

    @property
    def rounds(self) -> int:
        """Tokens behind the first: the rounds that plain decoding takes."""
        return len(next(iter(self.accepted.values())))

    def committed(self, position: int, block: int) -> int:
        """Tokens that a round with ``block`` commits after the anchor at ``position``."""
        recorded = min((size for size in self.accepted if size >= block), default=self.block)
        return min(self.accepted[recorded][position], block - 1, self.rounds - position - 1) + 1


@dataclass(frozen=True, slots=True)
class Workload:
    """Traces in the order in which their requests arrive."""

    name: str
    traces: tuple[Trace, ...]

    @property
    def block(self) -> int:
        """The longest that all of them can replay."""
        return min(trace.block for trace in self.traces)

    def repeated(self, count: int) -> "Workload":
        """``count`` requests, the same ones again and again."""
        return Workload(self.name, tuple(islice(cycle(self.traces), count)))


def generated(count: int, length: int, seed: int) -> list[Workload]:
    """Made-up workloads of ``count`` requests with ``length`` rounds of plain decoding each."""
    rng = np.random.default_rng(seed)
    block = max(BLOCKS)
    easy, useless = (solve_probability(tau, block) for tau in (_EASY_TAU, _USELESS_TAU))
    scattered = rng.uniform(*_SCATTERED, count)
    once = np.repeat(_PHASES, -(-length // 2))
    often = np.tile(np.repeat(_PHASES, -(-length // 4)), 2)
    probabilities = {
        "easy": [np.full(length, easy)] * count,
        "mixed": [np.full(length, one) for one in scattered],
        "useless": [np.full(length, useless)] * count,
        "phases": [(once if row % 2 else often)[:length] for row in range(count)],
        "unlike rows": [np.full(length, (easy, useless)[row % 2]) for row in range(count)],
    }
    return [
        Workload(name, tuple(_made(name, one, block, rng) for one in each))
        for name, each in probabilities.items()
    ]


def from_json(entries: Sequence[Mapping[str, Any]]) -> list[Trace]:
    """The inverse of `as_json`.

    Raises:
        ValueError: lists of one trace are of unequal length, or empty.
    """
    traces = [
        Trace(
            str(entry["kind"]),
            {int(block): _counts(digits) for block, digits in entry["accepted"].items()},
        )
        for entry in entries
    ]
    for trace in traces:
        lengths = {len(counts) for counts in trace.accepted.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"a trace has lists of {sorted(lengths)} positions")
    return traces


def as_json(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    """Of each trace its kind and, by block, a base-36 digit per position."""
    return [
        {
            "kind": trace.kind,
            "accepted": {
                str(block): "".join(np.base_repr(count, 36) for count in counts)
                for block, counts in trace.accepted.items()
            },
        }
        for trace in traces
    ]


def _counts(digits: str) -> tuple[int, ...]:
    return tuple(int(digit, 36) for digit in digits)


def _made(kind: str, probability: np.ndarray, block: int, rng: np.random.Generator) -> Trace:
    """A token is guessed from every anchor before it, or from none: what is hard stays hard."""
    right = rng.random(len(probability)) < probability  # of the token behind each anchor
    runs, run = [], 0
    for one in reversed(right):
        run = run + 1 if one else 0
        runs.append(min(run, block - 1))
    return Trace(kind, {block: tuple(reversed(runs))})
