"""dflash-train eval: what a drafter is worth, on a loaded pair or on a running server."""

from dflash_serve.training.commands.options import command
from dflash_serve.training.evaluate.settings import EvaluateSettings


@command(EvaluateSettings)
def evaluate(settings: EvaluateSettings) -> int:
    """Measure tokens per round and speedups of a drafter by z-lab's protocol."""
    from dflash_serve.measure.tables import console
    from dflash_serve.training.evaluate.job import evaluate as run

    return run(settings, console())
