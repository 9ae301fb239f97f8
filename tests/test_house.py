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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 500
    if path in OPTION_TABLES:
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.is_relative_to(ROOT / "dflash_serve")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_modules_say_what_they_do(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if source.strip():
        assert ast.get_docstring(ast.parse(source))


def test_changelog_and_version_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE)
    assert versions[0] == dflash_serve.__version__


@pytest.mark.parametrize("room", ["server", "engine", "adapters", "kernels"])
def test_root_links_lead_to_the_rooms(room: str) -> None:
    link = ROOT / room
    assert link.is_symlink()
    assert link.resolve() == ROOT / "dflash_serve" / room
