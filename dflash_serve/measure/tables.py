"""Tables for a terminal, laid out alike wherever figures are shown."""

from collections.abc import Callable, Iterable, Sequence

from rich.table import Table


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
    """The first column left, the rest right; ``shown`` makes the text of a value."""
    made = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", no_wrap=not index)
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
