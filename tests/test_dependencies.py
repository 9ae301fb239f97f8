"""What the package imports, it declares; and every pin has a lowest version that can be tried."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {"pydantic_core": "pydantic"}
"""Modules that come with a distribution of another name, which pins them exactly."""

OPTIONAL = {"bench": {"bench"}, "training": {"train"}, "measure": {"bench"}}
"""Rooms that may import what an extra brings."""


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported(path: Path) -> set[str]:
    """Distributions of the modules that a file imports from outside of the standard library."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    found -= {*sys.stdlib_module_names, "dflash_serve", "tests"}
    return {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in found}


@pytest.mark.parametrize("room", [*sorted((ROOT / "dflash_serve").glob("[a-z]*"))], ids=str)
def test_a_room_imports_what_is_declared(room: Path) -> None:
    allowed = names(PROJECT["dependencies"])
    for extra in OPTIONAL.get(room.name, ()):
        allowed |= names(EXTRAS[extra])
    for path in sorted(room.rglob("*.py")) if room.is_dir() else [room]:
        if path.suffix == ".py":
            assert imported(path) <= allowed, path


def test_the_tests_import_what_is_declared() -> None:
    allowed = names(PROJECT["dependencies"]) | names(EXTRAS["test"])
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if "clients" not in path.parts:  # an environment of its own
            assert imported(path) <= allowed, path


def test_the_lowest_versions_are_those_of_the_pins() -> None:
    command = [sys.executable, str(ROOT / "tools/lowest.py"), *EXTRAS]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lowest = {Requirement(line).name: Requirement(line) for line in done.stdout.splitlines()}
    pins = [Requirement(text) for text in PROJECT["dependencies"]]
    pins += [Requirement(text) for extra in EXTRAS.values() for text in extra]
    assert set(lowest) == {pin.name for pin in pins}
    for pin in pins:
        (version,) = lowest[pin.name].specifier
        assert version.operator == "=="
        assert (">=", version.version) in {(item.operator, item.version) for item in pin.specifier}
        assert lowest[pin.name].marker == pin.marker
