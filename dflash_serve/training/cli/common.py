"""What the commands of dflash-train share while their options stand here."""

from typing import Annotated

import typer

from dflash_serve.training.commands.options import guarded

__all__ = ["Target", "guarded"]

Target = Annotated[str, typer.Option(help="Target: a directory or a hub id.")]
