"""dflash-train export: a trained drafter, cut to a dtype, with all that other readers need."""

import typer

from dflash_serve.training.commands.options import command
from dflash_serve.training.export.settings import ExportSettings


@command(ExportSettings)
def export(settings: ExportSettings) -> None:
    """Write a trained drafter in z-lab's Hugging Face layout, and upload it if wanted."""
    from dflash_serve.training.drafter.layout import CARD, CONFIG, WEIGHTS
    from dflash_serve.training.export.trained import export_drafter
    from dflash_serve.training.export.upload import check_repo, upload

    repo, out = settings.hf_repo, settings.out
    if repo is not None:
        check_repo(repo, public=settings.public)
    tensors = export_drafter(settings)
    typer.echo(f"{settings.source} -> {out}: {tensors} tensors in {settings.dtype}")
    if repo is not None:
        typer.echo(upload(out, (CONFIG, WEIGHTS, CARD), repo, public=settings.public))
