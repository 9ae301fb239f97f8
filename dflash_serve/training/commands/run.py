"""dflash-train run: a drafter from answers, measured as it goes."""

from dflash_serve.training.commands.options import command
from dflash_serve.training.run.settings import RunSettings

_STOPPED_ELSEWHERE = 130  # another process of the run was interrupted


@command(RunSettings)
def run(settings: RunSettings) -> int:
    """Train a drafter; the best one by tokens per round is kept in --out."""
    from rich.console import Console

    from dflash_serve.training.run.distributed import Processes, peers_needed
    from dflash_serve.training.run.interrupt import Interrupt
    from dflash_serve.training.run.loop import Ending
    from dflash_serve.training.run.train import Watching, train

    processes = Processes.joined()
    console = Console(quiet=not processes.first, soft_wrap=True)
    with Interrupt() as interrupt, peers_needed():
        outcome = train(settings, Watching(console, lambda: interrupt.requested), processes)
    if outcome.ending is Ending.STOPPED:
        console.print("To go on: the same command with --resume.")
        return interrupt.exit_code or _STOPPED_ELSEWHERE
    return 0
