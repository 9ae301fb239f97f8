"""dflash-train sweep: the options."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from dflash_serve.training.cli.common import guarded
from dflash_serve.training.cli.run import run


def sweep(
    file: Annotated[
        Path, typer.Argument(help="TOML or JSON: base, and runs or a grid; settings of `run`.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the runs' folders; continued if it exists.")],
) -> None:
    """Try a table of settings, one run after another, and rank them by tokens per round."""
    from dflash_serve.training.commands import sweep as commands

    guarded(lambda: commands.sweep(file, out, complete))


def complete(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of `run` by option name: what is given, checked by type, and the defaults.

    Raises:
        DataError: an unknown, missing or mistyped setting.
    """
    from pydantic import ConfigDict, ValidationError, create_model

    from dflash_serve.training.data import DataError

    hints = get_type_hints(run)
    fields: dict[str, Any] = {
        name: (hints[name], ... if option.default is inspect.Parameter.empty else option.default)
        for name, option in inspect.signature(run).parameters.items()
    }
    model = create_model("Settings", __config__=ConfigDict(extra="forbid"), **fields)
    try:
        return model(**given).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
