"""dflash-train: training data, drafters, and what they are worth. One module per command.

Options only: what a command does is the module of the same name in `training.commands`, imported
when it runs, so that ``--help`` needs no MLX.
"""

import typer

from dflash_serve import console
from dflash_serve.training.cli.run import run
from dflash_serve.training.cli.sweep import sweep
from dflash_serve.training.commands.adapt import adapt
from dflash_serve.training.commands.convert import convert
from dflash_serve.training.commands.data import data
from dflash_serve.training.commands.evaluate import evaluate
from dflash_serve.training.commands.export import export

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train DFlash drafters for the targets that dflash-serve serves.",
)
for command in (data, run, sweep, adapt, export, convert):
    app.command()(command)
app.command(name="eval")(evaluate)


def main() -> None:
    """Console entry point. A mistake is one line on stderr and exit code 2."""
    console.run(app, "dflash-train", ())
