"""What a measurement leaves behind: a JSON file, a plot beside it and tables on the terminal."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dflash_serve.atomic_files import replace_json
from dflash_serve.bench.errors import BenchError
from dflash_serve.measure.plots import save_figure
from dflash_serve.measure.results import Result, document, uncommitted

if TYPE_CHECKING:  # dflash-doctor reports without the extra that plots
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESULTS = Path("docs/results")
"""Where ``--save`` puts results, relative to the working directory."""


Source = str | Callable[[Any], object]
"""A cell of a row: the keys to its value, with dots between them, or what makes it of the entry."""


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_json(path, made)
        if plot is not None:
            save_figure(plot(), path.with_suffix(".png"))
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from error
    if warning := uncommitted(made):
        print(f"{path}: {warning}", file=sys.stderr)
    return path


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, text: bool = False
) -> Table:
    """A table with the first column left and the rest right; with ``text`` all left, no header."""
    made = Table(title=title, title_justify="left", show_header=not text)
    for index, column in enumerate(columns):
        made.add_column(
            column, justify="right" if index and not text else "left", no_wrap=not index
        )
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def table_of(title: str, entries: Iterable[Any], columns: Sequence[tuple[str, Source]]) -> Table:
    """A row for each of ``entries``, which are JSON objects."""
    rows = [[_value(entry, source) for _, source in columns] for entry in entries]
    return table(title, [name for name, _ in columns], rows)


def _value(entry: Any, source: Source) -> object:
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


def canvas(width: float, height: float) -> "tuple[Figure, Axes]":
    """A picture of so many inches, and its one field."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - dflash-doctor draws nothing

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def grouped_bars(
    axes: "Axes", names: Sequence[str], groups: Mapping[str, Sequence[float]], *, flat: bool = False
) -> None:
    """At every name a bar of each group, side by side."""
    size = 0.8 / len(groups)
    for at, (label, values) in enumerate(groups.items()):
        places = [place + (at - (len(groups) - 1) / 2) * size for place in range(len(names))]
        (axes.barh if flat else axes.bar)(places, values, size, label=label)
    (axes.set_yticks if flat else axes.set_xticks)(range(len(names)), names)
    axes.legend()


def show(*tables: Table) -> None:
    console = Console(width=None if sys.stdout.isatty() else 130)
    for one in tables:
        console.print(one)
