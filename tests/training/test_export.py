"""Exports hold what was trained, and cards say what is known of it and no more."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from dflash_serve.adapters.checkpoint import read_config, read_weights
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.measure.intervals import Interval
from dflash_serve.training.drafter.layout import CARD, CONFIG
from dflash_serve.training.run.checkpoint import Checkpoint, CheckpointStore
from dflash_serve.training.run.record import RunRecord, Worth
from tests.tiny import DRAFTER, write_target
from tests.tiny import write_drafter as write_tiny
from tests.training.command import refused, shown
from tests.training.files import masters

INNER = DRAFTER["dflash_config"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What a run leaves: the best drafter, the last one, a checkpoint, a log and its record."""
    run = tmp_path / "run"
    write_tiny(run)
    write_tiny(run / "last", seed=2)
    arrays = {f"masters.{name}": value for name, value in masters().items()}
    arrays |= {"optimizer.step": mx.array(2), "random": mx.array([0, 7])}
    CheckpointStore(run / "checkpoints").save(Checkpoint(200, arrays, {}))
    rows = [measured(100, 2.5, True), measured(200, 3.25, True), measured(300, 3.0, False)]
    rows.append(
        {"ended": "finished", "step": 300, "best": 3.25, "best_step": 200, "reported": 2.25}
    )
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"st')
    record().write(run)
    return run


def measured(step: int, value: float, best: bool) -> dict[str, Any]:
    """A line of the log: pooled is half a token more, and what is reported one less."""
    interval = asdict(Interval(value - 1.25, value - 0.75))
    reported = {**figures(value - 1), "tokens_per_round_interval": interval}
    return {"step": step, **figures(value), "best": best, "reported": reported}


def figures(value: float) -> dict[str, float]:
    return {"tokens_per_round": value, "tokens_per_round_pooled": value + 0.5}


def record(trained_on: str = "1,204 greedy answers of the target") -> RunRecord:
    worth = Worth(step=200, on="41 answers that did not choose it", tokens_per_round=2.25)
    return RunRecord(target="Qwen/Qwen3-8B", trained_on=trained_on, reported=worth)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_checkpoint_is_cut_once_from_its_float32_masters(
    dtype: str, run_folder: Path, tmp_path: Path
) -> None:
    source = run_folder / "checkpoints" / "step-00000200"
    shown("export", source, "--out", tmp_path / "out", "--dtype", dtype)
    stored, wanted = read_weights(tmp_path / "out"), masters()
    assert stored.keys() == wanted.keys()
    for name, value in wanted.items():
        assert stored[name].dtype == getattr(mx, dtype)
        assert mx.array_equal(stored[name], value.astype(getattr(mx, dtype)))
    assert read_config(tmp_path / "out")["dtype"] == dtype


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (
            "",
            "2.25 tokens per round (2.75 pooled; 95 % interval 2.00 to 2.50), on 41 answers that "
            "did not choose it, after 200",
        ),
        (
            "last",
            "2.00 tokens per round (2.50 pooled; 95 % interval 1.75 to 2.25), on 41 answers",
        ),
        ("checkpoints/step-00000200", "2.25 tokens per round (2.75 pooled; 95 % interval 2.00"),
        ("run of an older version", "2.25 tokens per round, on 41 answers"),
    ],
)
def test_the_card_says_what_was_measured_of_this_one_and_on_what(
    part: str, told: str, run_folder: Path, tmp_path: Path
) -> None:
    """Not on the answers that it was chosen by."""
    if part == "run of an older version":
        part = ""
        (run_folder / "log.jsonl").unlink()
    shown("export", run_folder / part, "--out", tmp_path / "out", "--runtime-block-size", 6)
    card = (tmp_path / "out" / CARD).read_text()
    assert told in card
    assert ("Interval: of that mean" in card) == ("interval" in told)
    assert "base_model: Qwen/Qwen3-8B" in card
    assert "16 as trained, 6 advised" in card
    drafter = load_drafter(tmp_path / "out", load_target(write_target(tmp_path / "target")))
    assert drafter.runtime_block_size == 6


@pytest.mark.parametrize(
    "trained_on", ["1,204 greedy answers of the target", "answers sampled with temperature 0.7"]
)
def test_the_card_says_what_the_drafter_learned_from(
    trained_on: str, run_folder: Path, tmp_path: Path
) -> None:
    """As the run's folder has it, and nothing where that does not say; no more than that."""
    record(trained_on).write(run_folder)
    shown("export", run_folder, "--out", tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text()
    assert f"## Trained on\n{trained_on[0].upper()}{trained_on[1:]}.\n" in card
    assert card.count("greedy") == trained_on.count("greedy")
    assert "dflash-serve --target Qwen/Qwen3-8B --drafter out" in card
    (run_folder / "run.json").write_text('{"target": 3}')
    assert "run.json cannot be read" in refused("export", run_folder, "--out", tmp_path / "other")


def test_a_card_names_no_folder_of_this_machine(run_folder: Path, tmp_path: Path) -> None:
    shown("export", run_folder, "--out", tmp_path / "out", "--target", tmp_path / "Tiny-1M")
    card = (tmp_path / "out" / CARD).read_text()
    assert str(tmp_path) not in card
    assert "| made for | Tiny-1M |" in card
    assert "base_model" not in card


def test_the_card_follows_a_resumed_run(run_folder: Path, tmp_path: Path) -> None:
    """It went back behind step 100, found a lower best, and was stopped between measurements."""
    since = [
        {"resumed": 100},
        {"step": 199, "loss": 1.0},
        measured(200, 3.125, True),
        {"step": 200, "loss": 1.0},
    ]
    with (run_folder / "log.jsonl").open("a") as log:
        log.write("\n" + "".join(json.dumps(row) + "\n" for row in since))
    for part, figure in (("", "2.12 tokens"), ("last", "Nothing yet.")):
        shown("export", run_folder / part, "--out", tmp_path / "out")
        assert figure in (tmp_path / "out" / CARD).read_text()


def test_the_card_of_a_vp_drafter_says_what_was_measured(run_folder: Path, tmp_path: Path) -> None:
    inner = INNER | {"training_mode": "vp_drafter", "prefix_weight_base": 0.9}
    (run_folder / CONFIG).write_text(json.dumps(DRAFTER | {"dflash_config": inner}))
    row = measured(200, 4.25, True)
    row["reported"] = {"tokens_per_round": 3.25}
    (run_folder / "log.jsonl").write_text(json.dumps(row) + "\n")
    shown("export", run_folder, "--out", tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text()
    assert "A VP-drafter (prefix weight base 0.9)" in card
    assert "3.25 tokens per round behind a visible prefix" in card
    written = read_config(tmp_path / "out")["dflash_config"]
    assert {key: written[key] for key in inner} == inner


def test_what_is_not_known_is_said_too(tmp_path: Path) -> None:
    shown("export", write_tiny(tmp_path / "in"), "--out", tmp_path / "out")
    card = (tmp_path / "out" / CARD).read_text()
    assert "## Trained on\nNot known." in card
    assert "## Measured\nNothing yet." in card


def test_an_export_is_served_with_the_runs_weights(run_folder: Path, tmp_path: Path) -> None:
    shown("export", run_folder, "--out", tmp_path / "out", "--dtype", "float32")
    target = load_target(write_target(tmp_path / "target"))
    served, trained = (
        dict(tree_flatten(load_drafter(path, target).model.parameters()))
        for path in (tmp_path / "out", run_folder)
    )
    assert served.keys() == trained.keys()
    assert all(mx.array_equal(served[name], trained[name]).item() for name in trained)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "no directory"),
        ("empty", "has no config.json"),
        ("run/checkpoints/step-00000200", "has no config.json"),
    ],
)
def test_what_is_no_drafter_is_refused(
    source: str, message: str, run_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (run_folder / CONFIG).unlink()
    (run_folder / "last" / CONFIG).unlink()
    assert message in refused("export", tmp_path / source, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_refused(run_folder: Path, tmp_path: Path) -> None:
    source = run_folder / "checkpoints" / "step-00000200"
    arrays = source / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    assert "damaged" in refused("export", source, "--out", tmp_path / "out")
