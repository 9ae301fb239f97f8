"""Names that no file can have and what is no file: told as such, and refused by every command."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from dflash_serve.bench import cli as bench
from dflash_serve.bench import doctor
from dflash_serve.paths import name_fault, not_a_file, shown
from dflash_serve.server import cli as server
from dflash_serve.training import cli as training

PROGRAMS: dict[str, Any] = {
    "dflash-train": training,
    "dflash-bench": bench,
    "dflash-doctor": doctor,
    "dflash-serve": server,
}
NAMES = {
    *("target", "drafter", "second_drafter", "random_target", "start", "record", "recordings"),
    *("source", "file", "path"),
}
"""Parameters that name files, beside those whose help says PATH."""


def lines() -> Iterator[Any]:
    """For each parameter of a program that names a file, a line of one command: it is too long."""
    tried = set()
    for program, module in PROGRAMS.items():
        group: Any = typer.main.get_command(module.app)
        for command, found in getattr(group, "commands", {"": group}).items():
            for one in found.params:
                of_file = one.metavar == "PATH" or one.name in NAMES
                if of_file and (program, one.name) not in tried:
                    tried.add((program, one.name))
                    words = [command] if command else []
                    for other in found.params:
                        if other.required or other is one:
                            named = other.opts[:1] if other.opts[0].startswith("--") else []
                            words += [*named, "x" * 5000 if other is one else "x"]
                    yield pytest.param(program, words, one, id=f"{program} {command} {one.name}")


@pytest.mark.parametrize(("program", "words", "parameter"), list(lines()))
def test_a_path_that_no_file_can_have_is_one_line_with_its_option(
    program: str,
    words: list[str],
    parameter: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", [program, *words])
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program].main()
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith(f"{program}: error: --{parameter.opts[0].lstrip('-')} is ")
    assert "x" * 30 in told
    assert told.endswith(" characters), but names cannot have more than 4095 bytes\n")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a/b", None),
        ("a" * 255, None),
        ("~no-such-user/a", "there is no such user"),
        ("a\nb", r"names cannot have a '\n'"),
        ("a\0b", r"names cannot have a '\x00'"),
        ("ä" * 128, "names cannot have more than 255 bytes between slashes"),
        ("/".join("ab" * 2000), "names cannot have more than 4095 bytes"),
    ],
)
def test_a_name_that_no_file_can_have_is_told_by_its_fault(name: str, found: str | None) -> None:
    assert name_fault(name) == found


def test_values_are_shown_short_and_on_one_line() -> None:
    assert shown("x" * 5000) == f"{'x' * 40}... (5000 characters)"
    assert shown("a\nb c") == r"a\nb c"


def test_what_is_no_file_is_told_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    kinds = {
        **dict.fromkeys(("file", "link", "nothing"), None),
        **{"": "a directory", "pipe": "a pipe", "socket": "a socket"},
        **{"broken": "a link that leads nowhere", "/dev/null": "a device"},
    }
    assert {name: not_a_file(tmp_path / name) for name in kinds} == kinds
