"""The two commands on a tiny checkpoint, as a user would call them."""

import json
import re
from pathlib import Path

import pytest
import typer

from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.compose.options import OptionsError
from dflash_serve.training.commands.options import guarded
from dflash_serve.training.data.answers import read_answers
from tests.tiny import DRAFTER, write_drafter, write_target
from tests.training.chat_target import write_chat_target
from tests.training.command import call, refused, shown
from tests.training.disk import no_file_above


@pytest.fixture
def target_dir(tmp_path: Path) -> Path:
    return write_chat_target(tmp_path / "target")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"kind": "k", "messages": [{"role": "user", "content": " ".join("abcdefghij"[i : i + 3])}]}
        for i in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_data_then_run_gives_a_drafter_that_answers_alike(
    target_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    plain, out = tmp_path / "answers.jsonl", tmp_path / "drafter"
    common = ("--target", target_dir, "--prompts", prompts, "--max-new", 12, "--batch", 3)
    shown("data", *common, "--out", plain)
    answers = read_answers(plain)
    assert [answer.row for answer in answers] == list(range(8))
    for answer in answers:
        assert answer.loss_tokens == 12 or answer.tokens[-1] == 1

    shown(
        "run", "--target", target_dir, "--data", plain, "--heldout", plain, "--out", out,
        "--layers", 1, "--block-size", 4, "--target-layers", "0,1,2", "--steps", 4,
        "--batch", 2, "--anchors", 4, "--measure-every", 2,
    )  # fmt: skip
    drafter = load_drafter(out, load_target(target_dir))
    assert drafter.target_layer_ids == (0, 1, 2)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log if "loss" in row] == [0, 1, 2, 3]

    drafted = tmp_path / "drafted.jsonl"
    shown("data", *common, "--out", drafted, "--drafter", out)
    again = read_answers(drafted)
    assert [answer.tokens.tolist() for answer in again] == [a.tokens.tolist() for a in answers]

    shown("export", out, "--out", tmp_path / "exported")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "greedy answers of the target to every turn, at most 12 tokens each" in card
    assert re.search(
        r"tokens per round \(\d\.\d\d pooled; 95 % interval \d\.\d\d to \d\.\d\d\), "
        r"on \d held-out answers that did not",
        card,
    )


@pytest.mark.parametrize("command", ["data", "eval", "adapt"])
def test_a_vp_drafter_is_refused_where_it_would_draft_alone(
    command: str, target_dir: Path, prompts: Path, tmp_path: Path
) -> None:
    """As SpecForge says it; before any weights are read."""
    said = DRAFTER["dflash_config"] | {"loss_type": "vp_drafter"}
    drafter = write_drafter(tmp_path / "drafter", dflash_config=said)
    source = "--records" if command == "adapt" else "--prompts"
    pair = ["--target", target_dir, "--drafter", drafter]
    options = [*pair, source, prompts, "--out", tmp_path / "out"]
    assert f"drafter {drafter} is a VP-drafter" in refused(command, *options)


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    line = refused("data", "--target", tmp_path / "none", "--prompts", "p", "--out", "o")
    assert line.startswith("dflash-train: error: no directory")


def test_a_wrong_environment_is_a_mistake_too(capsys: pytest.CaptureFixture[str]) -> None:
    """DFLASH_KERNELS is read once per process, so the refusal of it is made by hand."""

    def refused() -> None:
        raise OptionsError("DFLASH_KERNELS='fast' is none of auto, plain")

    with pytest.raises(typer.Exit) as ended:
        guarded(refused)
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == (
        "dflash-train: error: DFLASH_KERNELS='fast' is none of auto, plain\n"
    )


def test_a_full_disk_is_one_line(target_dir: Path, prompts: Path, tmp_path: Path) -> None:
    """As the system says it, with the file; nothing half-written stays."""
    out, answers = tmp_path / "out", tmp_path / "answers.jsonl"
    drafter, other = write_drafter(tmp_path / "drafter"), write_target(tmp_path / "other")
    data = ("data", "--target", target_dir, "--prompts", prompts, "--max-new", 4, "--out")
    shown(*data, answers)
    held = answers.with_name("answers.jsonl.summary.json").read_bytes()
    run = (
        "run", "--target", target_dir, "--data", answers, "--heldout", answers,
        "--layers", 1, "--block-size", 4, "--target-layers", "0,1,2", "--batch", 2, "--steps", 1,
    )  # fmt: skip
    for words, file in (
        ((*data, tmp_path / "new.jsonl"), "new.jsonl"),
        ((*data, answers), "answers.jsonl.summary.json"),
        ((*run, "--out", out), "out/checkpoints"),
        (("convert", drafter, "--target", other, "--out", tmp_path / "c"), "c"),
        (("export", drafter, "--out", tmp_path / "e"), "e"),
    ):
        with no_file_above(100):
            done = call(*words)
        assert done.exit_code == 2
        assert "\n" not in done.stderr.strip()
        assert str(tmp_path / file) in done.stderr
        assert "written" in done.stderr or "cannot write" in done.stderr
    assert answers.with_name("answers.jsonl.summary.json").read_bytes() == held
    left = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert left == []
