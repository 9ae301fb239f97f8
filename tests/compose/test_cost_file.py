"""Round costs on disk: read back where everything fits, measured anew where anything does not."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from dflash_serve.compose.cards import block_size
from dflash_serve.compose.cost_file import CostFile, cost_file
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.loading import load
from dflash_serve.compose.options import EngineOptions
from dflash_serve.engine.cost_table import CostPoint

POINTS = (CostPoint(1, 1, 0.25), CostPoint(8, 16, 1.5))
ORIGIN = {"machine": {"cpu": "a", "cores": 2}, "versions": {"mlx": "1"}, "block": 16}


@pytest.fixture(autouse=True)
def empty_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "costs.json"


def test_what_was_written_is_read_back(path: Path) -> None:
    assert CostFile(path, ORIGIN).read() == ()
    CostFile(path, ORIGIN).write(POINTS)
    assert CostFile(path, ORIGIN).read() == POINTS


@pytest.mark.parametrize(
    "changed",
    [
        {"machine": {"cpu": "b", "cores": 2}},
        {"versions": {"mlx": "2"}},
        {"block": 8},
        {"new": None},
    ],
)
def test_costs_of_another_origin_are_measured_anew(
    path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, Any]
) -> None:
    CostFile(path, ORIGIN).write(POINTS)
    with caplog.at_level(logging.INFO):
        assert CostFile(path, ORIGIN | changed).read() == ()
    assert "measured anew" in caplog.text
    CostFile(path, ORIGIN | changed).write(POINTS[:1])
    assert CostFile(path, ORIGIN | changed).read() == POINTS[:1]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"origin": ORIGIN}),
        json.dumps({"origin": ORIGIN, "points": 7}),
        json.dumps({"origin": ORIGIN, "points": [[1, 1]]}),
        json.dumps({"origin": ORIGIN, "points": [[1, 1, -1.0]]}),
        json.dumps({"origin": ORIGIN, "points": [[0, 1, 1.0]]}),
        json.dumps({"origin": ORIGIN, "points": [["1", 1, 1.0]]}),
        json.dumps({"origin": ORIGIN, "points": [[1, 1, float("nan")]]}),
        "\udcff",
    ],
)
def test_a_damaged_file_is_measured_anew(
    path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path.parent.mkdir()
    path.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert CostFile(path, ORIGIN).read() == ()
    (line,) = caplog.messages
    assert str(path) in line
    assert "measured anew" in line


def test_a_folder_that_cannot_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    CostFile(tmp_path / "file" / "costs.json", ORIGIN).write(POINTS)
    (line,) = caplog.messages
    assert "measured at every start" in line


BLOCK = block_size(EngineOptions(), DEMO / "drafter")


def found(options: EngineOptions, block: int = BLOCK) -> CostFile:
    made = cost_file(options, DEMO / "target", DEMO / "drafter", block)
    assert made is not None
    return made


def test_pairs_and_settings_have_files_of_their_own() -> None:
    found(EngineOptions()).write(POINTS)
    assert found(EngineOptions()).read() == POINTS
    assert found(EngineOptions(), block=4).read() == ()
    assert found(EngineOptions(max_batch=3)).read() == ()
    other = cost_file(EngineOptions(), DEMO / "target", DEMO / "drafter-v1", BLOCK)
    assert other is not None
    assert other.read() == ()


def test_other_switches_are_another_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    found(EngineOptions()).write(POINTS)
    monkeypatch.setenv("DFLASH_KERNELS", "plain")
    assert found(EngineOptions()).read() == ()


def test_nothing_is_kept_where_nothing_is_chosen() -> None:
    target, drafter = DEMO / "target", DEMO / "drafter"
    assert cost_file(EngineOptions(), target, None, 1) is None
    for options in (EngineOptions(speculation="always"), EngineOptions(block_size=4)):
        assert cost_file(options, target, drafter, 4) is None


def test_a_loaded_pair_comes_with_its_file() -> None:
    loaded = load(EngineOptions(), DEMO / "target", DEMO / "drafter")
    try:
        assert loaded.config.adaptive
        assert loaded.costs is not None
        loaded.costs.write(POINTS)
        assert loaded.costs.read() == POINTS
    finally:
        loaded.runner.close()
