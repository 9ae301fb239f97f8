"""Every command line of the training pages is one that the commands take."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dflash_serve.bench.cli import app as bench
from dflash_serve.training.cli import app as train
from dflash_serve.training.run.settings import RunSettings

PAGES = Path(__file__).parents[2] / "docs" / "training"
APPS = {"dflash-train": train, "dflash-bench": bench}
LINE = re.compile(r"^\s*(?:.* -- )?(dflash-(?:train|bench) .*)$", re.MULTILINE)


def lines() -> Iterator[Any]:
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text().replace("\\\n", " ")
        for found in LINE.finditer(text):
            words = shlex.split(found.group(1), comments=True)
            if "…" not in words and len(words) > 2:
                yield pytest.param(words, id=f"{page.stem}: {' '.join(words[:2])}")


def given(words: list[str]) -> dict[str, Any]:
    """The options that a command line sets, by name."""
    group: Any = typer.main.get_command(APPS[words[0]])
    context = group.commands[words[1]].make_context(words[1], words[2:])
    return {name: value for name, value in context.params.items() if value is not None}


@pytest.mark.parametrize("words", list(lines()))
def test_a_documented_line_is_one_that_its_command_takes(words: list[str]) -> None:
    options = given(words)
    assert options
    if words[1] == "run":
        RunSettings.model_validate(options)


def test_a_line_that_no_command_takes_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        given(["dflash-train", "run", "--target", "T", "--data", "d", "--out", "o", "--gama", "4"])
