"""dflash-train profile: the options."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import guarded


def profile(
    *,
    out: Annotated[Path | None, typer.Option(help="Results as JSON, a plot beside it.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="demo, sparse, recipe, medium or large; default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved measurements of time.")] = 5,
) -> None:
    """Measure the training step against the same step written plainly: time and memory."""
    from dflash_serve.training.commands import profile as commands

    guarded(lambda: commands.profile(out, only or list(commands.SHAPES), rounds))
