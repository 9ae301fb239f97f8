"""Where names lead, without a network."""

from pathlib import Path

import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.compose.directories import DEMO, checkpoints, target_directory
from dflash_serve.compose.options import EngineOptions


def test_without_names_it_is_the_embedded_pair() -> None:
    assert checkpoints(EngineOptions()) == (DEMO / "target", DEMO / "drafter")


@pytest.mark.parametrize(
    "options", [EngineOptions(drafter="none"), EngineOptions(speculation="off")]
)
def test_plain_decoding_needs_no_drafter(options: EngineOptions) -> None:
    assert checkpoints(options) == (DEMO / "target", None)


def test_directories_are_taken_as_they_are(tmp_path: Path) -> None:
    assert target_directory(str(tmp_path)) == tmp_path
    options = EngineOptions(target=str(tmp_path), drafter=str(DEMO / "drafter"))
    assert checkpoints(options) == (tmp_path, DEMO / "drafter")


def test_a_directory_goes_before_the_short_name_of_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qwen3-8b").mkdir()
    assert target_directory("qwen3-8b").resolve() == tmp_path / "qwen3-8b"


def test_a_target_without_a_published_drafter_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="give --drafter"):
        checkpoints(EngineOptions(target=str(tmp_path)))


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="nowhere"):
        target_directory(str(tmp_path / "nowhere"))
