"""Where names lead, without a network."""

import os
import shutil
from pathlib import Path

import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.compose.directories import (
    DEMO,
    checked_checkpoints,
    checkpoints,
    target_directory,
)
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


@pytest.mark.timeout(30)  # who reads a pipe that nobody writes to waits for ever
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"]
)
def test_a_pipe_or_folder_in_a_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    directory = tmp_path / "target"
    shutil.copytree(DEMO / "target", directory)
    (directory / name).unlink(missing_ok=True)
    os.mkfifo(directory / name)
    with pytest.raises(AdapterError, match=f"{name} is a pipe, but must be a file$"):
        checked_checkpoints(EngineOptions(target=str(directory), drafter="none"))
    (directory / name).unlink()
    (directory / name).mkdir()
    with pytest.raises(AdapterError, match=f"{name} is a directory, but must be a file$"):
        checked_checkpoints(EngineOptions(target=str(directory), drafter="none"))


def test_weights_that_are_not_there_do_not_matter_where_only_the_config_is_read(
    tmp_path: Path,
) -> None:
    """As in a clone whose large files were not fetched."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "absent")
    assert target_directory(str(tmp_path), config_only=True) == tmp_path
    with pytest.raises(AdapterError, match=r"model.safetensors is a link that leads nowhere"):
        target_directory(str(tmp_path))
