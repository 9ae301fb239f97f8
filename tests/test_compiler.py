"""The compiler that tests put before MLX."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.compiler import write_compiler

PLAIN = """#!/bin/sh
# Says whether LIBRARY exists where half of it is written, and writes where the last -o says.
for word; do output="$word"; done
echo half > "$output"
test -e "$LIBRARY" && echo seen >> "$LOG"
echo whole > "$output"
"""


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname != "Linux", reason="g++ on Linux")
def test_a_library_has_its_name_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    plain = tmp_path / "plain" / "g++"
    plain.write_text(PLAIN)
    plain.chmod(0o755)
    monkeypatch.setenv("PATH", str(plain.parent), prepend=os.pathsep)
    write_compiler(tmp_path / "quick")
    library, log = tmp_path / ("x" * 251 + ".so"), tmp_path / "log"
    environment = os.environ | {"LIBRARY": str(library), "LOG": str(log)}
    subprocess.run(
        [str(tmp_path / "quick" / "g++"), "-shared", "kernel.cpp", "-o", str(library)],
        check=True,
        env=environment,
    )
    assert library.read_text() == "whole\n"
    assert not log.exists(), "another process could have loaded half of it"
    assert {one.name for one in tmp_path.iterdir()} == {"plain", "quick", library.name}
