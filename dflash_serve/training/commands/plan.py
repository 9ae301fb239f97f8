"""dflash-train plan: what training a drafter takes, from the target's config.json alone."""

from dflash_serve.training.commands.options import command
from dflash_serve.training.run.settings import PlanSettings

DOES_NOT_FIT = 1
"""Exit code where memory or disk is missing."""


@command(PlanSettings)
def plan(settings: PlanSettings) -> int:
    """Say what a run takes in memory, disk and hours, and whether this machine has it (or exit 1).

    Of the target only config.json is read.
    """
    import json

    import typer
    from rich.console import Console

    from dflash_serve.training.run.plan import forecast

    made = forecast(settings)
    if settings.json_:
        typer.echo(json.dumps(made.as_json(), indent=2))
    else:
        console = Console()
        console.print(*made.tables(), sep="\n")
        for line in made.advice or ["It fits."]:
            console.print(line, soft_wrap=True, highlight=False)
    return 0 if made.fits else DOES_NOT_FIT
