import errno
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.training.run.checkpoint import Checkpoint, CheckpointError, CheckpointStore
from tests.training.disk import no_file_above


def checkpoint(step: int, size: int = 4) -> Checkpoint:
    arrays = {
        "masters.fc": mx.full((size,), float(step)),
        "optimizer.step": mx.array(step, mx.uint64),
        "random": mx.array([1, step], mx.uint32),
    }
    return Checkpoint(step, arrays, {"position": {"step": step}, "losses": [0.1 + step]})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "deep" / "down")
    assert store.newest() is None
    assert store.save(checkpoint(7)).name == "step-00000007"
    read = store.newest()
    assert read is not None
    assert (read.step, read.facts) == (7, checkpoint(7).facts)
    for name, value in checkpoint(7).arrays.items():
        assert read.arrays[name].dtype == value.dtype
        assert np.array_equal(np.array(read.arrays[name]), np.array(value))


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (5, 10, 100, 20):
        store.save(checkpoint(step))
    assert [folder.name for folder in store.folders()] == ["step-00000020", "step-00000100"]
    read = store.newest()
    assert read is not None
    assert read.step == 100


def test_what_a_killed_run_left_half_written_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(3))
    half = tmp_path / ".step-00000004.part"
    half.mkdir()
    (half / "arrays.safetensors").write_bytes(b"half")
    read = store.newest()
    assert read is not None
    assert read.step == 3
    store.save(checkpoint(5))
    assert not half.exists()


def test_a_disk_that_refuses_leaves_the_previous_one_whole(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.save(checkpoint(3))
    with no_file_above(100_000), pytest.raises(CheckpointError, match=r"step 4 .*step-00000003"):
        store.save(checkpoint(4, size=1_000_000))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    read = store.newest()
    assert read is not None
    assert read.arrays["masters.fc"].tolist() == [3.0] * 4
    store.save(checkpoint(4, size=1_000_000))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_disk_that_fails_at_the_last_moment_leaves_the_previous_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(3))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        store.save(checkpoint(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("name", ["facts.json", "arrays.safetensors"])
def test_a_damaged_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    damaged = store.save(checkpoint(3)) / name
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="step-00000003 cannot be read"):
        store.newest()
