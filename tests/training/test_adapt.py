"""Adapting a drafter to recorded requests: what is learnt, what is refused, what stays."""

import json
import random
import re
from pathlib import Path

import pytest
from typer.testing import Result

from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.records import read_records
from dflash_serve.training.drafter.layout import CARD_MARK
from tests.tiny import write_drafter, write_target
from tests.training.command import call
from tests.training.recorded import Turn, record

Pair = tuple[Path, Path]
VOCABULARY = 400
FIGURES = ("tokens_per_round", "tokens_per_round_pooled")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    directory = tmp_path_factory.mktemp("pair")
    drafter = write_drafter(directory / "drafter", block_size=4, vocab_size=VOCABULARY)
    return write_target(directory / "target", vocab_size=VOCABULARY), drafter


def counting(count: int, start: int = 20, length: int = 16) -> list[Turn]:
    """Different prompts, and answers that a drafter can learn at once: seven tokens in a circle."""
    rng = random.Random(start)
    prompts = rng.sample(range(90, VOCABULARY), count)
    return [
        ((prompt, prompt - 1, 7), tuple((n + i) % 7 + start for i in range(length)))
        for n, prompt in enumerate(prompts)
    ]


def chats(count: int, turns: int) -> list[Turn]:
    """Chats that have three tokens of their own and go through these in every answer."""
    made = []
    for own in range(count):
        history: tuple[int, ...] = (100 + 2 * own, 5)
        for turn in range(turns):
            answer = tuple(100 + 2 * own + (turn + i) % 2 for i in range(9))
            made.append((history, answer))
            history += (*answer, 6, turn + 10, 5)
    return made


def adapt(pair: Pair, records: Path, out: Path, *options: object) -> Result:
    target, drafter = pair
    asked = ["--target", target, "--drafter", drafter, "--records", records, "--out", out]
    common = ["--batch", 4, "--anchors", 4, "--measure-every", 20]
    return call("adapt", *asked, *common, *options)


def figures(result: Result, drafter: str, kind: str = "recorded") -> list[float]:
    """The table's row of a drafter: tokens per round, pooled, and the change with its interval."""
    found = re.search(rf"│ {kind} +│ +{drafter} +│(.*)│", result.output)
    assert found, result.output
    return [float(text) for text in re.findall(r"[-+]?\d+\.\d+", found[1])]


@pytest.fixture(scope="module")
def adapted(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """What adapting to answers that count wrote over an older drafter's card, with replay."""
    directory = tmp_path_factory.mktemp("adapted")
    records = record(directory / "kept", fingerprint(pair[0]), counting(120))
    replay = record(directory / "other", fingerprint(pair[0]), counting(110, start=40))
    (file,) = replay.glob("records-*")
    out = directory / "new"
    out.mkdir()
    (out / "README.md").write_text(f"7.77 tokens per round, of an older one\n{CARD_MARK}\n")
    result = adapt(pair, records, out, "--steps", 50, "--lr", 5e-3, "--replay", file)
    return result, out


def test_a_better_drafter_is_written_and_says_on_which_answers(
    adapted: tuple[Result, Path],
) -> None:
    result, out = adapted
    assert result.exit_code == 0, result.output
    (old, old_pooled, change, low, _), (new, new_pooled) = (
        figures(result, name) for name in ("old", "new")
    )
    assert new > 1.5 * old
    assert 0 < low < change
    assert json.loads((out / "config.json").read_text())["block_size"] == 4
    report = json.loads((out / "adapt.json").read_text())
    assert report["settings"]["gamma"] == 2.0  # the published ratio to the block of 4
    assert report["settings"]["replay_tolerance"] == 0.05
    found = report["results"]
    recorded, replay = found["judged"]
    for drafter, told in (("old", [old, old_pooled]), ("new", [new, new_pooled])):
        values = [recorded["drafters"][drafter][name] for name in FIGURES]
        assert [round(value, 3) for value in values] == told
    assert recorded["set"] == "recorded, held out"
    assert recorded["conversations"] == found["split"]["recorded"]["held out"]["conversations"]
    assert replay["conversations"] >= 20
    assert found["chosen"]["set"] == "recorded, to choose by"
    exported = out.parent / "exported"
    call("export", out, "--out", exported)
    for folder in (out, exported):
        card = (folder / "README.md").read_text()
        figure = f"{new:.2f} tokens per round ({new_pooled:.2f} pooled; 95 % interval "
        assert figure in card
        assert f"{recorded['conversations']} held-out conversations" in card
        assert "Recorded answers of the target" in card
        assert "7.77" not in card


def test_a_worse_drafter_never_replaces_a_better_one(
    pair: Pair, adapted: tuple[Result, Path]
) -> None:
    earlier, out = adapted
    good = (out / "model.safetensors").read_bytes()
    result = adapt(pair, out.parent / "kept", out, "--steps", 1, "--lr", 1e-9)
    assert result.exit_code == 1, result.output
    assert figures(result, "in --out")[0] == figures(earlier, "new")[0]
    assert "against in --out" in result.output
    assert "interval must lie above 0" in result.output
    assert "may have been trained on held-out conversations" in result.output
    assert (out / "model.safetensors").read_bytes() == good


def test_a_loss_on_the_replay_vetoes(
    pair: Pair, adapted: tuple[Result, Path], tmp_path: Path
) -> None:
    """Much better at what was recorded, and its old domain forgotten."""
    old = adapted[1]
    records = record(tmp_path / "kept", fingerprint(pair[0]), counting(120, start=60))
    (replay,) = (old.parent / "kept").glob("records-*")
    options = ("--steps", 50, "--lr", 5e-3, "--replay", replay, "--replay-share", 0.01)
    result = adapt((pair[0], old), records, tmp_path / "new", *options)
    assert result.exit_code == 1, result.output
    assert figures(result, "old")[3] > 0
    assert figures(result, "old", "replay")[4] < -5
    assert "held-out conversations (replay)" in result.output
    assert "must lie above -5.0%" in result.output
    assert not (tmp_path / "new").exists()


def test_what_is_learnt_by_heart_from_a_chat_is_not_taken_for_progress(
    pair: Pair, tmp_path: Path
) -> None:
    """Each chat repeats tokens of its own: only a drafter that was trained on it can know them."""
    records = record(tmp_path / "kept", fingerprint(pair[0]), chats(120, turns=3))
    options = ("--steps", 80, "--lr", 1e-2, "--anchors", 8)
    result = adapt(pair, records, tmp_path / "new", *options)
    assert result.exit_code == 1, result.output
    assert figures(result, "new")[0] < 1.05
    assert "25 held-out conversations" in result.output
    assert not (tmp_path / "new").exists()


def refused(pair: Pair, records: Path, tmp_path: Path, *options: object) -> str:
    result = adapt(pair, records, tmp_path / "new", "--steps", 1, *options)
    assert result.exit_code == 2, result.output
    lines = result.output.splitlines()
    assert lines[-1].startswith("dflash-train: error: ")
    assert not (tmp_path / "new").exists()
    return lines[-1]


def test_records_of_another_target_are_refused(pair: Pair, tmp_path: Path) -> None:
    records = record(tmp_path / "kept", "f00d", counting(60))
    text = refused(pair, records, tmp_path)
    assert "f00d" in text
    assert fingerprint(pair[0]) in text


def test_too_few_conversations_are_refused_by_number(pair: Pair, tmp_path: Path) -> None:
    """Equal prompts are one."""
    records = record(tmp_path / "kept", fingerprint(pair[0]), counting(11) * 20)
    text = refused(pair, records, tmp_path)
    assert "220 usable answers of 11 conversations" in text
    assert "at least 20" in text


def test_a_replay_of_another_target_or_too_small_a_one_is_refused(
    pair: Pair, tmp_path: Path
) -> None:
    own = fingerprint(pair[0])
    records = record(tmp_path / "kept", own, counting(120))
    for target, count, told in (
        ("beef", 120, f"120 of 120 answers are of target beef, but this is {own}"),
        (own, 20, "of 20 conversations"),
    ):
        (file,) = record(tmp_path / target, target, counting(count)).glob("records-*")
        text = refused(pair, records, tmp_path, "--replay", file)
        assert str(file) in text
        assert told in text


def test_two_lengths_are_refused(pair: Pair, tmp_path: Path) -> None:
    text = refused(pair, tmp_path, tmp_path, "--minutes", 1)
    assert "--steps 1 and --minutes 1" in text


def test_the_folder_of_a_run_is_not_written_over(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    result = adapt(pair, tmp_path / "kept", tmp_path)
    assert result.exit_code == 2
    assert "is the folder of a run" in result.output


def test_records_without_prompts_are_refused(pair: Pair, tmp_path: Path) -> None:
    records = record(tmp_path / "kept", fingerprint(pair[0]), counting(60), keep=False)
    assert "--no-record-prompts" in refused(pair, records, tmp_path)


def test_an_empty_folder_is_refused(pair: Pair, tmp_path: Path) -> None:
    assert "holds no records" in refused(pair, tmp_path, tmp_path)


def test_a_torn_last_line_is_passed_over_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    records = record(tmp_path / "kept", "t", counting(5))
    (path,) = records.glob("records-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert len(read_records(records, "t", 99).answers) == 4
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b"{broken", *lines[4:]]))
    with pytest.raises(DataError, match="line 4"):
        read_records(records, "t", 99)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    record(tmp_path / "kept", "one", counting(3))
    record(tmp_path / "kept", "two", counting(5))
    record(tmp_path / "kept", "two", counting(2, length=40))
    record(tmp_path / "kept", "two", counting(1), keep=False)
    found = read_records(tmp_path / "kept", "two", max_length=30)
    assert len(found.answers) == 5
    assert found.left_out == {
        "answers: longer than 30 tokens": 2,
        "requests recorded without prompts": 1,
        "files recorded with another target": 1,
    }
