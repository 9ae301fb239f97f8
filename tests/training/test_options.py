"""How a command is made of its settings, and how its mistakes end."""

import subprocess
import sys
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner, Result

from dflash_serve.adapters.base import AdapterError
from dflash_serve.measure.errors import DataError
from dflash_serve.training.commands.options import command
from dflash_serve.training.run.checkpoint import CheckpointError
from dflash_serve.training.run.guard import Diverged
from dflash_serve.training.settings import Positional, Settings


class Example(Settings):
    source: Annotated[str, Positional()] = Field(description="Where from.")
    target: str = Field(description="The target.")
    kind: str | None = Field(None, alias="from", description="The trainer.")
    layers: int = Field(5, ge=1, le=9, description="How many.")
    mode: Literal["fast", "slow"] = Field("fast", description="How.")
    causal: bool | None = Field(None, description="Or not.")


def invoke(
    *words: str, error: Exception | None = None, code: int = 0
) -> tuple[Result, list[Example]]:
    taken: list[Example] = []

    @command(Example)
    def work(settings: Example) -> int:
        """What it does."""
        taken.append(settings)
        if error is not None:
            raise error
        return code

    app = typer.Typer()
    app.command()(work)
    return CliRunner().invoke(app, list(words)), taken


def test_options_are_the_fields_and_only_those_given_count_as_set() -> None:
    result, (taken,) = invoke("x", "--target", "t", "--from", "them", "--no-causal")
    assert result.exit_code == 0
    assert taken == Example(**{"source": "x", "target": "t", "from": "them", "causal": False})
    assert taken.model_fields_set == {"source", "target", "kind", "causal"}


def test_help_says_choices_defaults_and_limits() -> None:
    words = " ".join(invoke("--help")[0].output.replace("│", " ").split())
    assert "What it does." in words
    assert "How many. (default 5, at least 1, at most 9)" in words
    assert "How. (fast or slow, default fast)" in words


@pytest.mark.parametrize(
    "error", [DataError("a\n b"), AdapterError("a b"), CheckpointError("a b"), Diverged("a b")]
)
def test_a_mistake_of_the_caller_is_one_line(error: Exception) -> None:
    result, _ = invoke("x", "--target", "t", error=error)
    assert (result.exit_code, result.output) == (2, "dflash-train: error: a b\n")
    result, taken = invoke("x", "--target", "t", "--layers", "12")
    assert (result.exit_code, taken) == (2, [])
    assert result.output == (
        "dflash-train: error: --layers is 12, but should be less than or equal to 9\n"
    )


@pytest.mark.parametrize("error", [ValueError("inside"), OSError("inside"), KeyError("inside")])
def test_a_fault_inside_keeps_its_traceback(error: Exception) -> None:
    result, _ = invoke("x", "--target", "t", error=error)
    assert result.exception is error
    assert "dflash-train: error" not in result.output


def test_the_works_own_exit_code_stays() -> None:
    assert invoke("x", "--target", "t", code=3)[0].exit_code == 3


def test_help_needs_no_mlx() -> None:
    code = """
import sys
sys.modules["mlx"] = None
sys.argv = ["dflash-train", "run", "--help"]
from dflash_serve.training.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--weight-decay" in done.stdout
