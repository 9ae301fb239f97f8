"""House rules that no linter checks: sizes, the changelog's version, the root links."""

import ast
import re
from pathlib import Path

import pytest

import dflash_serve

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted([*ROOT.glob("dflash_serve/**/*.py"), *ROOT.glob("tests/**/*.py")])
OPTION_TABLES = {
    *ROOT.glob("dflash_serve/*/cli.py"),
    *ROOT.glob("dflash_serve/*/cli/*.py"),
}


def too_long(path: Path) -> list[str]:
    """The functions of a file that are, and the file itself."""
    source = path.read_text(encoding="utf-8")
    found = [str(path)] if source.count("\n") > 500 else []
    if path in OPTION_TABLES:
        return found
    functions = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    long = (each for each in functions if (each.end_lineno or 0) - each.lineno >= 60)
    return found + [f"{path}: {each.name}" for each in long]


def test_files_and_functions_stay_small() -> None:
    assert [name for path in FILES for name in too_long(path)] == []


def test_modules_say_what_they_do() -> None:
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        if path.is_relative_to(ROOT / "dflash_serve") and source.strip():
            assert ast.get_docstring(ast.parse(source)), path


def test_changelog_and_version_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert versions[0] == dflash_serve.__version__


@pytest.mark.parametrize("room", ["server", "engine", "adapters", "kernels"])
def test_root_links_lead_to_the_rooms(room: str) -> None:
    link = ROOT / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / "dflash_serve" / room
