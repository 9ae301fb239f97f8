"""dflash-train export: a trained drafter, cut to a dtype, with all that other readers need."""

from pathlib import Path
from typing import Annotated, Self

import typer
from pydantic import Field, model_validator

from dflash_serve.training.commands.options import Positional, command
from dflash_serve.training.run.settings import DtypeName
from dflash_serve.training.settings import Settings


class ExportSettings(Settings):
    """Options of the command."""

    source: Annotated[Path, Positional()] = Field(
        description="A run's folder, its last/, or a checkpoint."
    )
    out: Path = Field(description="Folder to write; what is there stays until the end.")
    dtype: DtypeName = Field("bfloat16", description="Of the written weights.")
    runtime_block_size: int | None = Field(
        None, ge=2, description="Block that you advise for serving."
    )
    target: str | None = Field(
        None, description="The target's name, for the model card only; the run's if not given."
    )
    hf_repo: str | None = Field(
        None, description="OWNER/NAME on the Hugging Face hub to upload the folder to."
    )
    public: bool = Field(False, description="Let everyone read a new --hf-repo.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.public and self.hf_repo is None:
            raise ValueError("--public has no effect without --hf-repo")
        return self


@command(ExportSettings)
def export(settings: ExportSettings) -> None:
    """Write a trained drafter in z-lab's Hugging Face layout, and upload it if wanted."""
    from dflash_serve.training.drafter.layout import CARD, CONFIG, WEIGHTS
    from dflash_serve.training.export.trained import ExportJob, export_drafter
    from dflash_serve.training.export.upload import check_repo, upload

    repo, out = settings.hf_repo, settings.out
    if repo is not None:
        check_repo(repo, public=settings.public)
    job = ExportJob(
        settings.source,
        out,
        repo or out.resolve().name,
        settings.dtype,
        settings.runtime_block_size,
        settings.target,
    )
    tensors = export_drafter(job)
    typer.echo(f"{job.source} -> {out}: {tensors} tensors in {job.dtype}")
    if repo is not None:
        typer.echo(upload(out, (CONFIG, WEIGHTS, CARD), repo, public=settings.public))
