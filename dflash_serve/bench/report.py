"""What a measurement leaves behind: a JSON file, a plot beside it and tables on the terminal."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from dflash_serve.atomic_files import replace_json
from dflash_serve.bench.errors import BenchError
from dflash_serve.measure.plots import save_figure
from dflash_serve.measure.results import Result, document, uncommitted
from dflash_serve.measure.tables import console, table
from dflash_serve.paths import not_a_file

if TYPE_CHECKING:  # dflash-doctor reports without the extra that plots
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path("docs/results")
"""Where ``--save`` puts results, relative to the working directory."""


Source = str | Callable[[Any], object]
"""A cell of a row: the keys to its value, with dots between them, or what makes it of the entry."""
Column = str | tuple[str, Source]
"""Its name and its cells; keys alone name themselves."""
Columns = Sequence[Column]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a result goes: ``out`` names a JSON file, ``save`` picks one in `RESULTS`."""

    out: Path | None = None
    save: bool = False

    def path(self, name: str) -> Path | None:
        if self.out is not None:
            return self.out
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        return RESULTS / f"{name}-{day}.json" if self.save else None


def make_room(path: Path) -> None:
    """Make the folder of a file to be written, best before what it will hold is measured.

    Raises:
        BenchError: it cannot be made, or no file can take the place of what is at ``path``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error
    if kind := not_a_file(path):
        raise BenchError(f"cannot write {path}: it is {kind}")


def write(
    result: Result, destination: Destination, plot: "Callable[[], Figure] | None" = None
) -> Path | None:
    """Write the JSON and the plot beside it as PNG, each whole; the JSON's path, if any.

    A result of a tree with uncommitted changes is written, and said on the terminal to be one.
    """
    path = destination.path(result.name)
    if path is None:
        return None
    made = document(result)
    make_room(path)
    try:
        replace_json(path, made)
        if plot is not None:
            save_figure(plot(), path.with_suffix(".png"))
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error
    if warning := uncommitted(made):
        print(f"{path}: {warning}", file=sys.stderr)
    return path


def table_of(title: str, entries: Iterable[Any], columns: str | Columns) -> Table:
    """A row for each of ``entries``, which are JSON objects; columns by name, or a text of keys."""
    named = _named(columns)
    rows = ([_value(entry, source) for _, source in named] for entry in entries)
    return table(title, [name for name, _ in named], rows, shown=cell)


def _named(columns: str | Columns) -> list[tuple[str, Source]]:
    listed = columns.split() if isinstance(columns, str) else columns
    return [
        (one.replace("_", " ").replace(".", " "), one) if isinstance(one, str) else one
        for one in listed
    ]


def _value(entry: Any, source: Source) -> Any:
    return reduce(getitem, source.split("."), entry) if isinstance(source, str) else source(entry)


def times(key: str) -> Callable[[Any], str | None]:
    """The value at ``key`` as in 1.50x."""
    return lambda entry: None if entry[key] is None else f"{entry[key]:.2f}x"


def percent(key: str) -> Callable[[Any], str | None]:
    """The share at ``key`` as in 12.5 %, if there is one."""
    return lambda entry: None if entry.get(key) is None else f"{100 * entry[key]:.1f} %"


def cell(value: object) -> str:
    """Floats to three or four digits, None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


Panel = Callable[["Axes"], None]
"""Draws one field of a picture."""


def picture(*panels: Panel, width: float = 6.0, height: float = 4.0) -> "Figure":
    """Fields side by side, each of so many inches."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - dflash-doctor draws nothing

    figure = Figure(figsize=(width * max(1, len(panels)), height), layout="constrained")
    if panels:
        for axes, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            panel(axes)
    return figure


def bars(
    title: str,
    entries: Sequence[Any],
    name: Source,
    values: str | Columns,
    *,
    stacked: bool = False,
    limit: float | None = None,
) -> Panel:
    """For every entry a bar of each value, side by side or ``stacked``; a line at a ``limit``."""
    groups = _named(values)
    size = 0.8 if stacked else 0.8 / len(groups)

    def draw(axes: "Axes") -> None:
        left = [0.0] * len(entries)
        for at, (label, source) in enumerate(groups):
            shift = 0 if stacked else (at - (len(groups) - 1) / 2) * size
            lengths = [_value(entry, source) for entry in entries]
            places = [place + shift for place in range(len(entries))]
            axes.barh(places, lengths, size, left, label=label)
            if stacked:
                left = [start + length for start, length in zip(left, lengths, strict=True)]
        axes.set_yticks(range(len(entries)), [str(_value(entry, name)) for entry in entries])
        axes.invert_yaxis()
        if limit is not None:
            axes.axvline(limit, color="grey", linestyle="--", linewidth=1)
        axes.set_title(title)
        if len(groups) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, fontsize="small")

    return draw


def lines(
    title: str,
    entries: Iterable[Any],
    x: str,
    y: Source,
    by: Source,
    *,
    style: Literal["lines", "points", "powers"] = "lines",
    limit: float | None = None,
) -> Panel:
    """Each entry's ``y`` over its ``x``, a line for all of the same ``by``; one at a ``limit``.

    From zero on, or on scales of ``powers``.
    """
    series: dict[str, tuple[list[Any], list[float]]] = {}
    for entry in entries:
        places, values = series.setdefault(str(_value(entry, by)), ([], []))
        places.append(_value(entry, x))
        values.append(_value(entry, y))

    def draw(axes: "Axes") -> None:
        for label, (places, values) in series.items():
            axes.plot(places, values, "o" if style == "points" else "o-", label=label)
        if limit is not None:
            axes.axhline(limit, color="grey", linestyle="--", linewidth=1)
        if style == "powers":
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, None)
        axes.set(title=title, xlabel=x.replace("_", " "))
        if by == x:
            axes.tick_params(axis="x", rotation=20)
        elif len(series) > 1:
            axes.legend(fontsize="small")

    return draw


def show(*tables: Table) -> None:
    out = console()
    for one in tables:
        out.print(one)
