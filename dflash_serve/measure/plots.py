"""Writes pictures whole, so that a viewer never meets half of one. Draws nothing."""

from pathlib import Path
from typing import TYPE_CHECKING

from dflash_serve.atomic_files import replacing

if TYPE_CHECKING:  # who only reports in text needs no library that draws
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a picture whole or not at all; its form is the path's suffix.

    Raises:
        OSError: the old file, if any, is still whole.
    """
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=110, format=path.suffix.removeprefix("."))
