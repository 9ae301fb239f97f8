"""Adapting a drafter to recorded requests: what is learnt, what is refused, what stays."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.engine.types import EngineRequest, Usage
from dflash_serve.server.recording import Finished, Recorder, Segments
from dflash_serve.training.cli import app
from dflash_serve.training.data import Answer, DataError
from dflash_serve.training.data.records import read_records, split
from dflash_serve.training.drafter.layout import CARD_MARK
from tests.tiny import write_drafter, write_target

Pair = tuple[Path, Path]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp("pair")
    drafter = write_drafter(directory / "drafter", block_size=4)
    return write_target(directory / "target"), drafter


def record(
    directory: Path,
    target: str,
    prompts: Sequence[tuple[int, ...]],
    answers: Sequence[tuple[int, ...]],
    keep: bool = True,
) -> Path:
    """As a server would, through its own recorder."""
    segments = Segments(directory, 10**7, {"target": target, "prompts": keep})
    segments.open()
    made = Recorder(segments, keep)
    made.start()
    for prompt, answer in zip(prompts, answers, strict=True):
        request = EngineRequest("r", prompt, 50)
        made.add(Finished(request, answer, "stop", Usage(len(prompt), len(answer)), ("d@1",)))
    made.close()
    return directory


def prompts(count: int) -> list[tuple[int, ...]]:
    rng = random.Random(1)
    return [tuple(rng.sample(range(90), 5)) for _ in range(count)]


def counting(count: int) -> list[tuple[int, ...]]:
    """Answers that a drafter can learn at once."""
    return [tuple((n + i) % 7 + 20 for i in range(16)) for n in range(count)]


def adapt(pair: Pair, records: Path, out: Path, *options: object) -> Result:
    target, drafter = pair
    asked = ["--target", target, "--drafter", drafter, "--records", records, "--out", out]
    common = ["--batch", 4, "--anchors", 4, "--measure-every", 20]
    return CliRunner().invoke(app, [str(part) for part in ("adapt", *asked, *common, *options)])


def figures(result: Result, row: str = "recorded") -> list[float]:
    """The table's figures in a row: old, (in --out,) new, change."""
    line = next(line for line in result.output.splitlines() if line.startswith(f"│ {row}"))
    return [float(text) for text in re.findall(r"[-+]?\d+\.\d+", line)]


def test_a_better_drafter_is_written_and_a_worse_one_never(pair: Pair, tmp_path: Path) -> None:
    records = record(tmp_path / "kept", fingerprint(pair[0]), prompts(60), counting(60))
    out = tmp_path / "new"
    out.mkdir()
    (out / "README.md").write_text(f"7.77 tokens per round, of an older one\n{CARD_MARK}\n")
    replay = record(tmp_path / "other", "any", prompts(80)[60:], counting(20))
    (file,) = replay.glob("records-*")
    result = adapt(pair, records, out, "--steps", 40, "--lr", 3e-3, "--replay", file)
    assert result.exit_code == 0, result.output
    old, new, _ = figures(result)
    assert new > 1.5 * old
    assert len(figures(result, "replay")) == 3
    assert json.loads((out / "config.json").read_text())["block_size"] == 4
    told = json.loads((out / "adapt.json").read_text())["tokens_per_round"]["recorded"]
    assert [round(told[name], 3) for name in ("old", "new")] == [old, new]
    card = (out / "README.md").read_text()
    assert f"{new:.2f} tokens per round" in card
    assert "7.77" not in card
    good = (out / "model.safetensors").read_bytes()

    result = adapt(pair, records, out, "--steps", 1, "--lr", 1e-9)
    assert result.exit_code == 1, result.output
    assert "not better" in result.output
    assert figures(result)[1] == new
    assert (out / "model.safetensors").read_bytes() == good


def test_nothing_is_written_where_nothing_was_learnt(pair: Pair, tmp_path: Path) -> None:
    records = record(tmp_path / "kept", fingerprint(pair[0]), prompts(60), counting(60))
    result = adapt(pair, records, tmp_path / "new", "--steps", 1, "--lr", 1e-12)
    assert result.exit_code == 1, result.output
    old, new, _ = figures(result)
    assert new == old
    assert not (tmp_path / "new").exists()


def refused(pair: Pair, records: Path, tmp_path: Path) -> str:
    result = adapt(pair, records, tmp_path / "new", "--steps", 1)
    assert result.exit_code == 2, result.output
    lines = result.output.splitlines()
    assert lines[-1].startswith("dflash-train: error: ")
    assert not (tmp_path / "new").exists()
    return lines[-1]


def test_records_of_another_target_are_refused(pair: Pair, tmp_path: Path) -> None:
    records = record(tmp_path / "kept", "f00d", prompts(60), counting(60))
    text = refused(pair, records, tmp_path)
    assert "f00d" in text
    assert fingerprint(pair[0]) in text


def test_too_few_requests_are_refused_by_number(pair: Pair, tmp_path: Path) -> None:
    """The same prompt over and over is one prompt."""
    asked = prompts(11) + prompts(1) * 80
    records = record(tmp_path / "kept", fingerprint(pair[0]), asked, counting(91))
    text = refused(pair, records, tmp_path)
    assert "11 different prompts" in text
    assert "at least 40" in text


def test_records_without_prompts_are_refused(pair: Pair, tmp_path: Path) -> None:
    records = record(tmp_path / "kept", fingerprint(pair[0]), prompts(60), counting(60), False)
    assert "--no-record-prompts" in refused(pair, records, tmp_path)


def test_an_empty_folder_is_refused(pair: Pair, tmp_path: Path) -> None:
    assert "holds no records" in refused(pair, tmp_path, tmp_path)


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    records = record(tmp_path / "kept", "t", prompts(5), counting(5))
    (path,) = records.glob("records-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(read_records(records, "t").answers) == 4
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b"{broken", *lines[4:]]))
    with pytest.raises(DataError, match="line 4"):
        read_records(records, "t")


def test_files_of_several_targets_are_told_apart(tmp_path: Path) -> None:
    record(tmp_path / "kept", "one", prompts(3), counting(3))
    record(tmp_path / "kept", "two", prompts(5), counting(5))
    found = read_records(tmp_path / "kept", "two")
    assert (len(found.answers), found.of_others) == (5, 1)


def test_no_prompt_is_in_two_parts_and_all_stay_where_they_are() -> None:
    made = [
        Answer(n, "", np.array([*prompt, 1, 2], np.int32), ((5, 7),))
        for n, prompt in enumerate(prompts(200) * 2)
    ]
    few, many = split(made[:100]), split(made)
    parts = [many.train, many.choosing, many.held]
    keys = [{tuple(answer.tokens) for answer in part} for part in parts]
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]
    assert [len(part) for part in parts] == [2 * len(key) for key in keys]
    assert 40 < len(many.held) < 120
    assert {answer.row for answer in few.held} <= {answer.row for answer in many.held}
    assert {answer.row for answer in few.train} <= {answer.row for answer in many.train}
