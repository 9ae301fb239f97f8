"""The table of published pairs, for people and for pipes. Imports no MLX."""

from rich.console import Console
from rich.table import Table

from dflash_serve.adapters.pairs import PAIRS, Pair

_COLUMNS = ("target", "drafter", "kind", "block", "family")


def print_pairs() -> None:
    """A table in a terminal, else one line per pair with tabs between the columns."""
    console = Console()
    if not console.is_terminal:
        for pair in PAIRS:
            console.file.write("\t".join(_cells(pair)) + "\n")
        return
    table = Table(title="Published drafters; of several, --drafter auto takes the first")
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for pair in PAIRS:
        table.add_row(*_cells(pair), style=None if pair.served else "dim")
    console.print(table)
    console.print("~ before a drafter: its name follows the publisher's pattern and was not seen.")


def _cells(pair: Pair) -> tuple[str, ...]:
    drafter = pair.drafter if pair.named else f"~{pair.drafter}"
    block = "?" if pair.block is None else str(pair.block)
    return pair.target, drafter, pair.kind, block, pair.family or "not served"
