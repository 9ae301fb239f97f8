"""dflash-train export: the options."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import guarded


def export(
    source: Annotated[Path, typer.Argument(help="A run's folder, its last/, or a checkpoint.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write; what is there stays until the end.")],
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "bfloat16",
    runtime_block_size: Annotated[
        int | None, typer.Option(min=2, help="Block that you advise for serving.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The target's name, for the model card only.")
    ] = None,
) -> None:
    """Write a trained drafter in z-lab's Hugging Face layout."""
    from dflash_serve.training.commands import export as commands

    guarded(
        lambda: commands.export(commands.ExportJob(source, out, dtype, runtime_block_size, target))
    )
