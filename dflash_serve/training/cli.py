"""dflash-train: the table of its commands, each a module of `training.commands`.

Commands import what they need when they run, so that ``--help`` needs no MLX.
"""

import typer

from dflash_serve import console
from dflash_serve.training.commands.adapt import adapt
from dflash_serve.training.commands.convert import convert
from dflash_serve.training.commands.data import data
from dflash_serve.training.commands.evaluate import evaluate
from dflash_serve.training.commands.export import export
from dflash_serve.training.commands.plan import plan
from dflash_serve.training.commands.run import run
from dflash_serve.training.commands.sweep import sweep

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train DFlash drafters for the targets that dflash-serve serves.",
)
for command in (plan, data, run, sweep, adapt, export, convert):
    app.command()(command)
app.command(name="eval")(evaluate)


def main() -> None:
    """Console entry point. A mistake is one line on stderr and exit code 2."""
    console.run(app, "dflash-train", ())
