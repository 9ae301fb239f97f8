"""The race against a PyTorch trainer: its commands, its text, and that both learn the same way."""

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dflash_serve.training.cli import app
from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.run.trainer import TrainOptions

TOOLS = Path(__file__).parent.parent.parent / "tools/torch_step"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the race by its name; the scripts import those of the demo beside them."""
    monkeypatch.setattr(sys, "path", [str(TOOLS), str(TOOLS.parent / "demo"), *sys.path])
    return importlib.import_module


def test_every_option_of_a_stage_is_one_of_its_command(tool: Any) -> None:
    race = tool("race")
    sizes = race.Sizes(4.0, 6.0, 800, 48, 64, 2)
    programs = race.Programs("python", "torch-python")
    work = Path("work")
    for stage in race.before(work, sizes, programs) + race.after(work, sizes, programs, 300.0):
        program, first, *rest = stage.command
        given = {part.partition("=")[0] for part in rest if part.startswith("--")}
        if program == "dflash-train":
            shown = CliRunner().invoke(app, [first, "--help"], env={"COLUMNS": "300"}).stdout
        else:
            shown = Path(first).read_text(encoding="utf-8")
        assert given <= set(re.findall(r"--[a-z][a-z0-9-]*", shown)), stage.name


def test_no_source_file_is_in_two_sets_and_no_beginning_twice(tool: Any, tmp_path: Path) -> None:
    text = tool("race_text")
    body = "".join(f"    x = {number}\n" for number in range(9))
    for number in range(64):
        source = f"class A:\n    def own_{number}(self):\n" + body.replace("    ", "        ")
        (tmp_path / f"m{number}.py").write_text(source + f"\ndef shared():\n{body}\n")
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages/foreign.py").write_text(f"def foreign():\n{body}")

    found = text.read(tmp_path)

    prompts = [one.prompt for made in found.values() for one in made]
    assert len(prompts) == len(set(prompts)) == 65
    assert sum(prompt.startswith("def shared") for prompt in prompts) == 1
    for name, made in found.items():
        own = [re.match(r"def own_(\d+)\(", one.prompt) for one in made]
        files = {f"m{match[1]}.py" for match in own if match}
        assert files
        assert {text.part_of(Path(file)) for file in files} == {name}


def test_both_trainers_see_the_same_examples_in_the_same_steps(tool: Any) -> None:
    start = tool("race_start")
    lengths = [40 + 7 * number for number in range(11)]
    options = TrainOptions(Horizon(minutes=0.01), batch=4)
    order = start.order(lengths, options)
    assert order.shape == (12, 4)
    for epoch in range(4):
        drawn = order[3 * epoch : 3 * epoch + 3]
        assert sorted(drawn[drawn >= 0].tolist()) == list(range(len(lengths)))
    assert (np.sort(order[0]) != np.sort(order[3])).any()
