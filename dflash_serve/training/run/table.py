"""A table of settings to try: read from a file, judged against each other, ranked.

Plain Python; runs nothing.
"""

import itertools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_serve.training.data.errors import DataError

Settings = dict[str, Any]
Point = tuple[float, float]  # progress 0 to 1, tokens per round

_PARTS = ("base", "runs", "grid", "prune")


@dataclass(frozen=True, slots=True)
class Prune:
    """A run behind ``after`` of its course ends if it is below ``share`` of the best by then."""

    share: float = 0.8
    after: float = 0.25

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.after <= 1):
            raise DataError(f"prune: share {self.share} and after {self.after} must be 0 to 1")

    def hopeless(self, own: Sequence[Point], others: Sequence[Sequence[Point]]) -> bool:
        """Whether the course ``own`` lags behind the best of ``others`` at the same progress."""
        progress = own[-1][0]
        reached = [value for course in others for at, value in course if at <= progress]
        if progress < self.after or not reached:
            return False
        return max(value for _, value in own) < self.share * max(reached)


@dataclass(frozen=True, slots=True)
class Entry:
    """One run: its folder's name, and what it sets besides the base."""

    name: str
    own: Settings


@dataclass(frozen=True, slots=True)
class Table:
    base: Settings
    entries: tuple[Entry, ...]
    prune: Prune


@dataclass(frozen=True, slots=True)
class Result:
    """How one run ended: ``state`` is finished, pruned or failed; ``course`` its measurements.

    Runs are ranked by ``best``; ``reported`` is the same drafter's value on other answers.
    """

    name: str
    state: str
    settings: Settings
    best: float
    reported: float
    best_step: int
    steps: int
    seconds: float
    course: tuple[Point, ...]
    message: str = ""


def read_table(path: Path) -> Table:
    """``base`` settings; ``runs``, a list of settings with a name, or ``grid``, lists of values.

    Raises:
        DataError: the file cannot be read or makes no table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    unknown = [name for name in raw if name not in _PARTS]
    if unknown:
        raise DataError(f"{path}: {unknown[0]!r} is none of {', '.join(_PARTS)}")
    if ("runs" in raw) == ("grid" in raw):
        raise DataError(f"{path} needs either runs or a grid")
    try:
        entries = _listed(raw["runs"]) if "runs" in raw else _grid(raw["grid"])
        prune = Prune(**raw.get("prune", {}))
    except TypeError as error:
        raise DataError(f"{path}: {error}") from error
    names = [entry.name for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if not entries or twice:
        raise DataError(f"{path}: " + (f"two runs are called {twice[0]}" if twice else "no runs"))
    return Table(_named(raw.get("base", {})), tuple(entries), prune)


def ranked(results: Sequence[Result]) -> list[Result]:
    """The best first; failed ones last, whatever they had reached."""
    return sorted(results, key=lambda result: (result.state == "failed", -result.best))


def _named(settings: Mapping[str, Any]) -> Settings:
    return {name.replace("-", "_"): value for name, value in settings.items()}


def _listed(runs: Sequence[Mapping[str, Any]]) -> list[Entry]:
    entries = []
    for run in runs:
        own = _named(run)
        name = own.pop("name", None) or _name(own)
        entries.append(Entry(_folder(name), own))
    return entries


def _grid(grid: Mapping[str, Sequence[Any]]) -> list[Entry]:
    names = list(_named(grid))
    for name, values in grid.items():
        if not isinstance(values, list):
            raise TypeError(f"grid: {name} is {values!r}, but must be a list")
    rows = [dict(zip(names, values, strict=True)) for values in itertools.product(*grid.values())]
    return [Entry(_folder(_name(row)), row) for row in rows]


def _name(own: Settings) -> str:
    return ",".join(f"{name}={value}" for name, value in own.items()) or "base"


def _folder(name: str) -> str:
    return re.sub(r"[^\w.,=+-]", "_", name).lstrip(".") or "_"
