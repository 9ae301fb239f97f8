"""What the commands of dflash-train share: options and how a mistake ends."""

from collections.abc import Callable
from typing import Annotated

import typer

Target = Annotated[str, typer.Option(help="Target: a directory or a hub id.")]


def guarded(job: Callable[[], int | None]) -> None:
    """Mistakes of the caller are one line and exit code 2; else ``job``'s own code, if any."""
    from dflash_serve.adapters.base import AdapterError
    from dflash_serve.training.data import DataError

    try:
        code = job()
    except (AdapterError, DataError, ValueError, FloatingPointError, OSError) as error:
        typer.echo(f"dflash-train: error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error
    except RuntimeError as error:
        if "[ring]" not in str(error):
            raise
        typer.echo(f"dflash-train: error: another process has ended: {error}", err=True)
        raise typer.Exit(2) from error
    if code:
        raise typer.Exit(code)
