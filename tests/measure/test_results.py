"""What results files say of the tree that made them, and that no committed one is of another."""

import json
from pathlib import Path
from typing import Any

from dflash_serve.measure.results import Result, document, uncommitted

RESULTS = Path(__file__).parents[2] / "docs" / "results"
BEFORE = {"shapes-2026-11-21.json"}
"""Made before this was asked of them. None may join."""


def commit_of(path: Path) -> Any:
    made = json.loads(path.read_text(encoding="utf-8"))
    return made.get("commit") if isinstance(made, dict) else None


def test_published_results_are_of_a_commit() -> None:
    paths = sorted(RESULTS.rglob("*.json"))
    assert paths
    wrong = [
        path.name
        for path in paths
        if path.name not in BEFORE and (commit_of(path) or {}).get("dirty") is not False
    ]
    assert wrong == []


def test_a_result_of_changed_files_says_so() -> None:
    made = document(Result("x", {}, {}))
    for commit, said in (
        (None, None),
        ({"hash": "a" * 40, "dirty": False}, None),
        ({"hash": "a" * 40, "dirty": True}, "not to be published: measured with changes"),
    ):
        text = uncommitted({**made, "commit": commit})
        assert (text is None) == (said is None)
        assert said is None or said in str(text)
