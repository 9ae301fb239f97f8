"""Every command line of the pages is one that the commands take, and every option is of one."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dflash_serve.bench.cli import app as bench
from dflash_serve.bench.doctor import app as doctor
from dflash_serve.server.cli import app as serve
from dflash_serve.training.cli import app as train
from dflash_serve.training.run.settings import RunSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "tools").rglob("*.md")]
)
GROUPS: dict[str, Any] = {
    "dflash-train": typer.main.get_command(train),
    "dflash-bench": typer.main.get_command(bench),
    "dflash-serve": typer.main.get_command(serve),
    "dflash-doctor": typer.main.get_command(doctor),
}
LINE = re.compile(r"^\s*(?:.* -- )?(dflash-(?:train|bench|serve|doctor) .*?)(?: &)?$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
FOREIGN = {
    *("--help", "--backend", "--hostfile"),  # of typer, of mlx.launch
    *("--speculative-config", "--speculative-algorithm"),  # of vLLM and SGLang
}


def lines() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for found in LINE.finditer(text):
            words = shlex.split(found.group(1), comments=True)
            if "…" not in words and len(words) > 2:
                yield pytest.param(words, id=f"{page.stem}: {' '.join(words[:2])}")


def parsed(words: list[str]) -> dict[str, Any]:
    """The options that a command line sets, by name."""
    program, *rest = words
    group = GROUPS[program]
    commands = getattr(group, "commands", None)
    name, given = (rest[0], rest[1:]) if commands else (program, rest)
    context = (commands[name] if commands else group).make_context(name, given)
    return {name: value for name, value in context.params.items() if value is not None}


def known() -> set[str]:
    """The options of all commands, and of the scripts in `tools`."""
    found = set()
    for group in GROUPS.values():
        for command in getattr(group, "commands", {"": group}).values():
            for one in command.params:
                found |= {*one.opts, *one.secondary_opts}
    scripts = "".join(path.read_text() for path in (ROOT / "tools").rglob("*.py"))
    return found | set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', scripts))


@pytest.mark.parametrize("words", list(lines()))
def test_a_documented_line_is_one_that_its_command_takes(words: list[str]) -> None:
    options = parsed(words)
    assert options
    if words[1] == "run":
        RunSettings.model_validate(options)


def test_a_documented_option_is_one_of_a_command() -> None:
    allowed = known() | FOREIGN
    wrong = {page.name: set(OPTION.findall(page.read_text())) - allowed for page in PAGES}
    assert not {name: found for name, found in wrong.items() if found}


def test_a_line_that_no_command_takes_is_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed(["dflash-train", "run", "--target", "T", "--data", "d", "--out", "o", "--gama", "4"])
