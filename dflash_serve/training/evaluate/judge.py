"""A new drafter against others on held-out conversations: how much better, and how surely.

Drafters are walked over known answers as they would be served; the target runs for features only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.loading import load_drafter
from dflash_serve.measure.figures import Acceptance, RoundCount
from dflash_serve.measure.intervals import (
    LEVEL,
    Interval,
    conversation_sums,
    mean_interval,
    ratio_interval,
)
from dflash_serve.measure.tables import table
from dflash_serve.training.data.example import Example
from dflash_serve.training.data.split import Subset
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.measure import walk_answers

NEW = "new"
_FEATURE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Change:
    """Relative change of tokens per round, and how sure it is."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        low, high = self.interval.low, self.interval.high
        return f"{self.value:+.1%} ({100 * low:+.1f} to {100 * high:+.1f})"

    def as_json(self) -> dict[str, Any]:
        return {"tokens_per_round": self.value, "interval": asdict(self.interval)}


def change_of(
    old: Sequence[RoundCount], new: Sequence[RoundCount], names: Sequence[bytes]
) -> Change:
    """What ``new`` changes over the same responses; ``names`` are those of their conversations,
    two or more."""
    before, after = (conversation_sums(counts, names)[0] for counts in (old, new))
    found = ratio_interval(after, before)
    assert found is not None
    value = float(after.sum() / before.sum())
    return Change(value - 1, Interval(found.low - 1, found.high - 1))


class HeldOut:
    """Held-out answers of one kind, and what drafters did on them; each turn is a response.

    Owner of the counts and of the answers' features.
    """

    def __init__(self, kind: str, part: Subset, target: TargetAdapter) -> None:
        self.kind, self._target = kind, target
        # the first token comes of the prompt: without another there is no round
        turns = [one for one in part.turns() if one[0].loss_mask.sum() > 1]
        self._examples: list[Example] = [turn for turn, _ in turns]
        self._names = [name for _, name in turns]
        self._features: dict[tuple[int, ...], FeatureStore] = {}
        self._counts: dict[str, list[RoundCount]] = {}

    @property
    def responses(self) -> int:
        return len(self._examples)

    @property
    def conversations(self) -> int:
        return len(set(self._names))

    @property
    def others(self) -> list[str]:
        """The drafters that were judged, but for the new one."""
        return [name for name in self._counts if name != NEW]

    def judge(self, name: str, path: Path) -> None:
        """Walk the drafter at ``path`` over the answers, and keep its counts as ``name``."""
        drafter = load_drafter(path, self._target)
        layers = drafter.target_layer_ids
        if layers not in self._features:
            self._features[layers] = FeatureStore(
                self._target, layers, self._examples, _FEATURE_BYTES
            )
        self._counts[name] = walk_answers(
            drafter, self._features[layers], self._examples, drafter.runtime_block_size
        )

    def acceptance(self, name: str) -> Acceptance:
        return Acceptance.of(self._counts[name])

    def interval(self, name: str) -> Interval | None:
        """Of the drafter's tokens per round."""
        return mean_interval(self._counts[name], self._names)

    def change(self, other: str) -> Change:
        """From the drafter ``other`` to the new one."""
        return change_of(self._counts[other], self._counts[NEW], self._names)

    def as_json(self) -> dict[str, Any]:
        return {
            "set": f"{self.kind}, held out",
            "conversations": self.conversations,
            "drafters": {name: self.acceptance(name).as_json() for name in self._counts},
            "change": {f"from {name}": self.change(name).as_json() for name in self.others},
        }

    def rows(self) -> Iterator[list[str]]:
        for name in self._counts:
            found = self.acceptance(name)
            figures = [found.tokens_per_round, found.tokens_per_round_pooled]
            change = "" if name == NEW else str(self.change(name))
            yield [self.kind, name, *(f"{figure:.3f}" for figure in figures), change]


def objections(held: Sequence[HeldOut], tolerance: float) -> list[str]:
    """Why the new drafter is not to be used; empty where it is better than all others.

    Better: on the first of ``held`` the intervals of its changes lie above 0, and on the rest that
    of its change from the first drafter above ``-tolerance``.
    """
    recorded, *rest = held
    asked = [(recorded, other, 0.0) for other in recorded.others]
    asked += [(one, one.others[0], -tolerance) for one in rest]
    found = []
    for one, other, limit in asked:
        change = one.change(other)
        if change.interval.low <= limit:
            found.append(
                f"over {one.conversations} held-out conversations ({one.kind}) its tokens per "
                f"round are {change} against {other}, and the {LEVEL:.0%} interval must lie above "
                f"{limit:.1%}"
            )
    return found


def table_of(held: Sequence[HeldOut]) -> Table:
    """Both figures of every drafter, and what the new one changes."""
    counts = ", ".join(f"{one.conversations} {one.kind}" for one in held)
    columns = ("answers", "drafter", "tokens per round", "pooled", f"new over it ({LEVEL:.0%})")
    rows = [row for one in held for row in one.rows()]
    return table(f"held-out conversations: {counts}", columns, rows)
