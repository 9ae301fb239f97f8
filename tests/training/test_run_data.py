"""What a run learns from, chooses by and reports on: no conversation in two of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.adapters.loading import load_target
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.run.run_data import RunData, read_data
from dflash_serve.training.run.settings import RunSettings
from tests.tiny import write_target


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_target(tmp_path_factory.mktemp("pair") / "target")


@pytest.fixture(scope="module")
def target(directory: Path) -> TargetAdapter:
    return load_target(directory)


def write_chats(path: Path, directory: Path, count: int, turns: int = 3, seed: int = 0) -> Path:
    """Every turn is a row of its own that begins with the chat so far, as servers record them."""
    rng = np.random.default_rng(seed)
    rows: list[object] = [{"target": fingerprint(directory)}]
    for _ in range(count):
        history: list[int] = []
        for _ in range(turns):
            prompt = [*history, *rng.integers(0, 90, 6).tolist()]
            answer = rng.integers(0, 90, 5).tolist()
            rows.append({"row": len(rows), "kind": "k", "prompt": prompt, "answer": answer})
            history = prompt + answer
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(
    directory: Path, target: TargetAdapter, data: Path, heldout: Path | None = None
) -> tuple[RunData, str]:
    said: list[str] = []
    settings = RunSettings(target=str(directory), data=data, out=data.parent, heldout=heldout)
    return read_data(settings, directory, target, said.append), "\n".join(said)


def chats(examples: list[Example]) -> set[bytes]:
    return {example.tokens[:6].tobytes() for example in examples}


@pytest.mark.parametrize("file_of_its_own", [True, False])
def test_the_best_is_chosen_by_other_chats_than_are_reported(
    directory: Path, target: TargetAdapter, tmp_path: Path, file_of_its_own: bool
) -> None:
    data = write_chats(tmp_path / "data.jsonl", directory, 40)
    heldout = (
        write_chats(tmp_path / "held.jsonl", directory, 33, seed=1) if file_of_its_own else None
    )
    found, said = read(directory, target, data, heldout)
    parts = [chats(part) for part in (found.train, found.choosing, found.reporting)]
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])
    assert [len(part) for part in parts] == ([40, 16, 17] if file_of_its_own else [36, 2, 2])
    assert len(found.reporting) == 3 * len(parts[2])
    assert f"by {len(found.choosing)} answers of {len(parts[1])} conversations" in said
    assert ("conversations are few" in said) is not file_of_its_own
    assert read(directory, target, data, heldout)[1] == said


def test_too_few_chats_are_refused_with_the_numbers(
    directory: Path, target: TargetAdapter, tmp_path: Path
) -> None:
    data = write_chats(tmp_path / "data.jsonl", directory, 2)
    with pytest.raises(DataError, match=r"holds 6 usable answers of 2 conversations .*: 3 conv"):
        read(directory, target, data)
    one = write_chats(tmp_path / "one.jsonl", directory, 1, turns=9)
    with pytest.raises(DataError, match=r"holds 9 usable answers of 1 conversation \(.*: 2 conv"):
        read(directory, target, data, one)


def test_held_out_chats_that_are_trained_on_are_told(
    directory: Path, target: TargetAdapter, tmp_path: Path
) -> None:
    data = write_chats(tmp_path / "data.jsonl", directory, 5)
    both = tmp_path / "both.jsonl"
    lines = write_chats(tmp_path / "other.jsonl", directory, 4, seed=1).read_text()
    both.write_text(lines + "\n".join(data.read_text().splitlines()[1:7]) + "\n")
    assert (
        f"2 of 6 held-out conversations are also in {data}"
        in read(directory, target, data, both)[1]
    )
