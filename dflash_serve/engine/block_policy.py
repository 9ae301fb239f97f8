"""What the next round verifies: a block per row, and chains or trees. Pure Python, no device."""

from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass
from statistics import mean, median

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostTable
from dflash_serve.engine.plan import DecodeRow, StepPlan, StepResult
from dflash_serve.engine.sequence import Sequence

CPU_VERIFY_TOKENS = 64
"""Rows x block beyond which drafting stops paying on a CPU, where every verified row costs."""


def choose_block(sequence: Sequence, rows: int, config: EngineConfig) -> int:
    """The block for ``sequence`` in a round of ``rows``: the anchor and its drafts.

    A block of b tokens commits at most b, so b > remaining would be wasted work and, at the
    context's end, writes past the cache. ``config.verify_tokens`` is shared by all rows. Drafting
    needs the drafter's context of all tokens; until then the block is 1.
    """
    if sequence.missed or not sequence.drafts:
        return 1
    block = config.block_size
    if config.verify_tokens:
        room = max(1, config.verify_tokens // rows)
        block = min(block, 1 << (room.bit_length() - 1))  # a width that is traced anyway
    return max(1, min(block, sequence.remaining))


@dataclass(frozen=True, slots=True)
class RowLimit:
    """A row of the next round, and the longest ``block`` that it can use."""

    row: int
    block: int


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What a round of ``width`` did for a row: it committed 1 to ``block`` tokens."""

    row: int
    width: int
    block: int
    committed: int


class BlockPolicy:
    """Chooses widths for the rows of an engine whose rounds are at most ``block_size`` wide.

    ``table`` is what rounds cost; the policy corrects it by the rounds it is told of. The same
    calls give the same choices.
    """

    def __init__(self, block_size: int, table: CostTable) -> None:
        raise NotImplementedError

    @property
    def table(self) -> CostTable: ...

    def choose(self, rows: Items[RowLimit]) -> tuple[int, ...]:
        """The width for each row: 1, 2, 4, ... or ``block_size``.

        Rows of one width share a round, and a row's block is the smaller of its limit and its
        width. Rows of several widths make one step of several rounds.
        """
        raise NotImplementedError

    def observe(self, outcomes: Items[RowOutcome], seconds: float | None) -> None:
        """Learn from what was chosen last and ran in ``seconds``, None if other work ran too."""
        raise NotImplementedError

    def forget(self, row: int) -> None:
        """``row`` has ended."""
        raise NotImplementedError


_RECENT = 24
"""Rounds of one kind that its rate is taken from."""
_ENOUGH = 8
"""Rounds of a kind after which it may be passed over."""
_PROBE_EVERY = 64
"""Rounds between two probes, which take the kinds in turn."""


class RoundKinds:
    """Which kind of round commits the most tokens per second here: chains, or trees of some size.

    Rates are those of rounds that ran, by the number of rows: each kind is tried for a few rounds,
    then the best one runs and the others are probed now and then. Without a choice nothing is kept.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._kinds = config.tree_nodes
        self._verify_tokens = config.verify_tokens
        self._rates: dict[tuple[int, int], deque[tuple[int, float]]] = {}
        self._rounds: dict[int, int] = {}

    def choose(self, decode: tuple[DecodeRow, ...]) -> int:
        """Nodes of the next round's trees, 0 for chains."""
        if not any(row.block > 1 for row in decode):
            return 0
        kinds = [kind for kind in self._kinds if self._fits(kind, len(decode))] or [0]
        if len(kinds) == 1:
            return kinds[0]
        rows = len(decode)
        turn = self._rounds[rows] = self._rounds.get(rows, 0) + 1
        young = [kind for kind in kinds if len(self._of(rows, kind)) < _ENOUGH]
        if young:
            return young[0]
        best = max(kinds, key=lambda kind: self._rate(rows, kind))
        probe, due = divmod(turn, _PROBE_EVERY)
        return best if due else kinds[probe % len(kinds)]

    def observe(self, plan: StepPlan, result: StepResult, seconds: float) -> None:
        """Count a step that was a round and nothing else."""
        if len(self._kinds) == 1 or plan.prefill or plan.context or not plan.decode:
            return
        if all(row.block == 1 for row in plan.decode):
            return
        tokens = sum(len(chosen.tokens) for chosen in result.decode)
        self._of(len(plan.decode), result.nodes).append((tokens, seconds))

    def _fits(self, kind: int, rows: int) -> bool:
        return not kind or not self._verify_tokens or kind * rows <= self._verify_tokens

    def _of(self, rows: int, kind: int) -> deque[tuple[int, float]]:
        return self._rates.setdefault((rows, kind), deque(maxlen=_RECENT))

    def _rate(self, rows: int, kind: int) -> float:
        """Mean tokens over the median time, which a traced graph or a busy moment leaves alone."""
        recent = self._of(rows, kind)
        return mean(tokens for tokens, _ in recent) / max(median(time for _, time in recent), 1e-9)
