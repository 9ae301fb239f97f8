"""dflash-train convert: a drafter of another trainer into the layout that the server reads."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import Field

from dflash_serve.training.commands.options import Positional, command
from dflash_serve.training.run.settings import DtypeName, Layers
from dflash_serve.training.settings import Settings


class ConvertSettings(Settings):
    """Options of the command."""

    source: Annotated[str, Positional()] = Field(description="A file, a directory or a hub id.")
    target: str = Field(description="Target: a directory or a hub id.")
    out: Path = Field(description="Folder to write; what is there stays until the end.")
    kind: Literal["z-lab", "torchspec", "specforge", "speculators"] | None = Field(
        None, alias="from", description="The trainer that wrote it; by look if not given."
    )
    config: Path | None = Field(
        None, description="The drafter's config.json, if not beside the weights."
    )
    dtype: DtypeName | None = Field(
        None, description="Of the written weights; as stored if not given."
    )
    block_size: int | None = Field(
        None, ge=2, description="As trained, where the config does not say: 16."
    )
    runtime_block_size: int | None = Field(
        None, ge=2, description="Block that you advise for serving."
    )
    target_layers: Layers = Field(None, description="Tapped layers, as in 1,9,17,25,33.")
    mask_token: int | None = Field(None, ge=0, description="Id of the mask token.")


@command(ConvertSettings)
def convert(settings: ConvertSettings) -> None:
    """Bring another trainer's drafter into the layout that dflash-serve reads."""
    from dflash_serve.adapters.foreign import Given
    from dflash_serve.compose.directories import target_directory
    from dflash_serve.training.export.conversion import ConvertJob, convert_drafter

    job = ConvertJob(
        settings.source,
        settings.target,
        settings.out,
        settings.kind,
        settings.config,
        settings.dtype,
        Given(
            settings.block_size,
            settings.runtime_block_size,
            settings.target_layers,
            settings.mask_token,
        ),
    )
    done = convert_drafter(job, target_directory(settings.target))
    notes = [f"{done.kind} -> {job.out}: {done.tensors} tensors in {done.dtype}"]
    if done.tables:
        notes.append(f"the drafter's own, kept: {', '.join(done.tables)}")
    if done.left_out:
        notes.append(f"left out, the target's own: {', '.join(done.left_out)}")
    typer.echo("; ".join(notes))
