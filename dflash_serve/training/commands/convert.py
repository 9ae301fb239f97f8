"""dflash-train convert: a drafter of another trainer into the layout that the server reads."""

import typer

from dflash_serve.training.commands.options import command
from dflash_serve.training.export.settings import ConvertSettings


@command(ConvertSettings)
def convert(settings: ConvertSettings) -> None:
    """Bring another trainer's drafter into the layout that dflash-serve reads."""
    from dflash_serve.training.export.conversion import convert_drafter

    done = convert_drafter(settings)
    notes = [f"{done.kind} -> {settings.out}: {done.tensors} tensors in {done.dtype}"]
    if done.tables:
        notes.append(f"the drafter's own, kept: {', '.join(done.tables)}")
    if done.left_out:
        notes.append(f"left out, the target's own: {', '.join(done.left_out)}")
    typer.echo("; ".join(notes))
