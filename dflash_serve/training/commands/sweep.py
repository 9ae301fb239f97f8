"""dflash-train sweep: runs one after another, pruned early, ranked in the end."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dflash_serve.training.commands.options import command
from dflash_serve.training.settings import Positional, Settings


class SweepSettings(Settings):
    """A table and where its runs go."""

    file: Annotated[Path, Positional()] = Field(
        description="TOML or JSON: base, and runs or a grid; settings of `run`."
    )
    out: Path = Field(description="Folder of the runs' folders; continued if it exists.")


@command(SweepSettings)
def sweep(settings: SweepSettings) -> int:
    """Try a table of settings, one run after another, and rank them by tokens per round.

    The mean over responses ranks, on the held-out answers that choose each run's drafter.
    """
    from dflash_serve.training.run.sweep import run_table

    return run_table(settings.file, settings.out)
