"""Tables for a terminal, laid out alike wherever figures are shown."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH = 130
"""Characters: what a table of ten figures needs to have its words on one line."""


def console(*, soft_wrap: bool = False) -> Console:
    """Standard output. Where it is no terminal, it is as wide as most tables need."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH, soft_wrap=soft_wrap)


def cell(value: object) -> str:
    """Floats to two digits, None as a dash."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str | None = None,
    shown: Callable[[object], str] = cell,
) -> Table:
    """The first column left, the rest right, all whole; ``shown`` makes the text of a value."""
    made = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for index, column in enumerate(columns):
        side: Any = "right" if index else "left"
        made.add_column(column, justify=side, no_wrap=not index, overflow="fold")
    for row in rows:
        made.add_row(*map(shown, row))
    return made


def facts(
    title: str, *groups: Iterable[tuple[str, object]], shown: Callable[[object], str] = cell
) -> Table:
    """Names and values without a header; a line between groups. Names stay on one line."""
    made = Table(title=title or None, title_justify="left", show_header=False)
    made.add_column(no_wrap=True)
    made.add_column()
    for group in groups:
        made.add_section()
        for name, value in group:
            made.add_row(name, shown(value))
    return made
