"""dflash-train convert: the options."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import Target, guarded


def convert(
    source: Annotated[str, typer.Argument(help="A file, a directory or a hub id.")],
    *,
    target: Target,
    out: Annotated[Path, typer.Option(help="Folder to write; what is there stays until the end.")],
    kind: Annotated[
        str | None, typer.Option("--from", help="The trainer that wrote it; default: by look.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The drafter's config.json, if not beside the weights.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16, bfloat16 or float32; default: as stored.")
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(min=2, help="As trained, where the config does not say: 16.")
    ] = None,
    runtime_block_size: Annotated[
        int | None, typer.Option(min=2, help="Block that you advise for serving.")
    ] = None,
    target_layers: Annotated[
        str | None, typer.Option(help="Tapped layers, as in 1,9,17,25,33.")
    ] = None,
    mask_token: Annotated[int | None, typer.Option(min=0, help="Id of the mask token.")] = None,
) -> None:
    """Bring another trainer's drafter into the layout that dflash-serve reads."""
    from dflash_serve.adapters.foreign import Given
    from dflash_serve.training.commands import convert as commands

    def job() -> None:
        taps = tuple(int(part) for part in target_layers.split(",")) if target_layers else None
        given = Given(block_size, runtime_block_size, taps, mask_token)
        commands.convert(commands.ConvertJob(source, target, out, kind, config, dtype, given))

    guarded(job)
