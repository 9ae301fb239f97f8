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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dflash_serve.measure.errors import DataError
from dflash_serve.measure.intervals import Interval
from dflash_serve.training.settings import Settings

Values = dict[str, Any]
Point = tuple[float, float]  # progress 0 to 1, tokens per round


class Prune(Settings):
    """A run behind ``after`` of its course ends if it is below ``share`` of the best by then."""

    share: float = Field(default=0.8, ge=0, le=1)
    after: float = Field(default=0.25, ge=0, le=1)

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
    own: Values


@dataclass(frozen=True, slots=True)
class Table:
    base: Values
    entries: tuple[Entry, ...]
    prune: Prune


class Result(BaseModel):
    """How one run ended: ``state`` is finished, pruned or failed; ``course`` its measurements.

    Runs are ranked by ``best``, the mean of tokens per round over the responses that choose a run's
    drafter; ``reported`` is the same drafter's mean over others. ``pooled``: all tokens over all
    rounds; None, as the interval, where there is no such figure.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    settings: Values
    best: float = 0.0
    best_pooled: float | None = None
    reported: float = 0.0
    reported_pooled: float | None = None
    reported_interval: Interval | None = None
    best_step: int = 0
    steps: int = 0
    seconds: float = 0.0
    course: tuple[Point, ...] = ()
    message: str = ""


class _File(Settings):
    base: Values = Field(default_factory=dict)
    runs: list[Values] | None = None
    grid: dict[str, list[Any]] | None = None
    prune: Prune = Prune()


def read_table(path: Path) -> Table:
    """``base`` settings; ``runs``, a list of settings with a name, or ``grid``, lists of values.

    Raises:
        DataError: the file cannot be read or makes no table.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        file = _File.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place} is {first['input']}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if (file.runs is None) == (file.grid is None):
        raise DataError(f"{path} needs either runs or a grid")
    entries = _listed(file.runs) if file.grid is None else _listed(_combined(file.grid))
    names = [entry.name for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if not entries or twice:
        raise DataError(f"{path}: " + (f"two runs are called {twice[0]}" if twice else "no runs"))
    return Table(_named(file.base), tuple(entries), file.prune)


def ranked(results: Sequence[Result]) -> list[Result]:
    """The best first; failed ones last, whatever they had reached."""
    return sorted(results, key=lambda result: (result.state == "failed", -result.best))


def _named(settings: Mapping[str, Any]) -> Values:
    return {name.replace("-", "_"): value for name, value in settings.items()}


def _listed(runs: Sequence[Mapping[str, Any]] | None) -> list[Entry]:
    entries = []
    for run in runs or []:
        own = _named(run)
        name = own.pop("name", None) or ",".join(f"{key}={own[key]}" for key in own) or "base"
        entries.append(Entry(re.sub(r"[^\w.,=+-]", "_", name).lstrip(".") or "_", own))
    return entries


def _combined(grid: Mapping[str, Sequence[Any]]) -> list[Values]:
    """Every combination of the grid's values."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
