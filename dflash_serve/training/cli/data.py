"""dflash-train data: the options."""

from pathlib import Path
from typing import Annotated

import typer

from dflash_serve.training.cli.common import Target, guarded


def data(
    *,
    target: Target,
    prompts: Annotated[Path, typer.Option(help='JSON lines {"messages": [...]}.')],
    out: Annotated[Path, typer.Option(help="Answer file; continued if it exists.")],
    drafter: Annotated[str | None, typer.Option(help="Drafter: same answers, sooner.")] = None,
    max_new: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    batch: Annotated[int, typer.Option(min=1, help="Prompts answered together.")] = 16,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
) -> None:
    """Let the target answer prompts, greedily: what a drafter learns from."""
    from dflash_serve.training.commands import data as commands

    guarded(
        lambda: commands.make_data(
            commands.DataJob(target, prompts, out, drafter, max_new, batch, limit)
        )
    )
