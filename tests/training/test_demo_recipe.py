"""The command that makes the demo pair from nothing: its stages, going on, and the tokenizer."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from dflash_serve.bench.cli import app as bench
from dflash_serve.training.cli import app as train

PROGRAMS = {"dflash-train": train, "dflash-bench": bench}
TOOLS = Path(__file__).parent.parent.parent / "tools/demo"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the command; the scripts import one another by name."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("make")


@pytest.mark.parametrize("pair", ["demo", "hybrid"])
def test_every_option_of_a_stage_is_one_of_its_command(tools: Any, pair: str) -> None:
    programs = tools.Programs("python", "torch-python")
    for stage in tools.stages(tools.RECIPES[pair], Path("work"), programs):
        program, first, *rest = stage.command
        given = {part for part in rest if part.startswith("--")}
        if program in PROGRAMS:
            app = PROGRAMS[program]
            shown = CliRunner().invoke(app, [first, "--help"], env={"COLUMNS": "300"}).stdout
        else:
            shown = Path(first).read_text(encoding="utf-8")
        assert given <= set(re.findall(r"--[a-z][a-z0-9-]*", shown)), stage.name


def test_a_run_goes_on_after_the_stage_that_failed(tools: Any, tmp_path: Path) -> None:
    count = "from pathlib import Path; p = Path({0!r}); p.write_text(p.read_text() + 'x')"
    counter, gate = tmp_path / "counter", tmp_path / "gate"
    counter.write_text("")
    stages = [
        tools.Stage("one", (sys.executable, "-c", count.format(str(counter)))),
        tools.Stage("two", (sys.executable, "-c", f"print(open({str(gate)!r}).read())")),
    ]
    with pytest.raises(SystemExit, match=r"stage 'two' ended with 1: see .*make\.log"):
        tools.make(stages, tmp_path, {str(tmp_path): "WORK"})
    gate.write_text("open now")
    tools.make(stages, tmp_path, {str(tmp_path): "WORK"})
    assert counter.read_text() == "x"
    log = (tmp_path / "make.log").read_text()
    assert "open now" in log
    assert str(tmp_path) not in log
    assert list(json.loads((tmp_path / "stages.json").read_text())) == ["one", "two"]


def test_a_stage_that_was_done_with_another_command_is_refused(tools: Any, tmp_path: Path) -> None:
    tools.make([tools.Stage("one", (sys.executable, "-c", "print(1)"))], tmp_path, {})
    with pytest.raises(
        SystemExit, match=r"stage 'one' was done as .*print\(1\).*, not .*print\(2\)"
    ):
        tools.make([tools.Stage("one", (sys.executable, "-c", "print(2)"))], tmp_path, {})


def test_a_copied_word_has_the_same_tokens_after_a_blank_and_in_quotes(tmp_path: Path) -> None:
    script = str(TOOLS / "tokenizer.py")
    subprocess.run([sys.executable, script, "--dialogues", "400", "--out", tmp_path], check=True)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for word in ("eldel", "houston", "doselcal", "amsterdam", "xqvzt", "Sella"):
        alone, blank, quoted = (
            tokenizer.encode(text, add_special_tokens=False).tokens
            for text in (word, f"lives in {word}", f'"{word}"')
        )
        assert blank[-len(alone) :] == alone
        assert quoted[1:-1] == alone
    text = 'Tell me a story about 3 owls, "Anna" and\n  the lamp!'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
