"""dflash-train data: the target's own answers to prompts, for a drafter to learn from."""

from rich.console import Console

from dflash_serve.training.commands.options import command
from dflash_serve.training.data.settings import DataSettings


@command(DataSettings)
def data(settings: DataSettings) -> None:
    """Let the target answer prompts: what a drafter learns from. Every bad row is reported."""
    from dflash_serve.training.data.make import make_answers

    make_answers(settings, Console())
