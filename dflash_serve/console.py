"""How every command of the package ends: an exit code, and mistakes as one line on stderr."""

import sys
from typing import Any

import typer

_UsageError: Any = typer.BadParameter.__bases__[0]
"""Base of everything typer raises for a bad command line; it has no public name of its own."""


def run(app: typer.Typer, program: str, refusals: tuple[type[Exception], ...]) -> None:
    """Run a command line and exit with the command's code; 2 for a usage error or a refusal.

    Libraries of the extras that are not installed are a refusal too.
    """
    try:
        code = app(standalone_mode=False)
    except (_UsageError, *refusals) as error:
        text = error.format_message() if isinstance(error, _UsageError) else str(error)
        typer.echo(f"{program}: error: {' '.join(text.split())}", err=True)
        code = 2
    except ModuleNotFoundError as error:
        hint = "pip install 'dflash-serve[train,bench]'"
        typer.echo(f"{program}: error: {error.name} is not installed: {hint}", err=True)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
