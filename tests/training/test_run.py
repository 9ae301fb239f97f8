"""`dflash-train run`, as a user calls it."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.adapters.loading import load_drafter, load_target
from tests.tiny import write_target
from tests.training.runs import World, write_answers


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def weights(folder: Path) -> dict[str, bytes]:
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    return {name: np.array(value).tobytes() for name, value in arrays.items()}


@pytest.mark.usefixtures("rendered")
def test_a_run_leaves_best_and_last_drafter_log_plot_and_checkpoints(world: World) -> None:
    result = world.invoke("out", steps=7, keep=1)
    assert result.exit_code == 0, result.output
    out = world.root / "out"
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "run.json", "last", "checkpoints", "log.jsonl",
        "plot.png",
    }  # fmt: skip
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000007"]
    target = load_target(world.root / "target")
    for folder in (out, out / "last"):
        assert load_drafter(folder, target).target_layer_ids == (0, 2)
    measured = [row for row in world.log("out") if "tokens_per_round" in row]
    assert [row["step"] for row in measured] == [3, 6, 7]
    assert f"best drafter: {out}, of step" in result.output
    assert list(world.losses("out")) == list(range(7))


LONG = {"steps": 150, "checkpoint_every": 25, "measure_every": 75}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with a finished run `whole` of the options LONG."""
    world = World.make(tmp_path_factory.mktemp("finished"))
    assert world.invoke("whole", **LONG).exit_code == 0
    return world


def start_until(world: World, out: str, path: str) -> subprocess.Popen[str]:
    """A run in a process of its own that has just written to ``path``.

    Not before its first step: while MLX runs the compiler, a signal to this process alone is lost.
    """
    process, made = world.start(out, **LONG), world.root / out / path
    while not (made.exists() and made.stat().st_size):
        assert process.poll() is None
        time.sleep(0.005)
    return process


def resumed(world: World, out: str) -> str:
    result = world.invoke(out, **LONG, resume=True)
    assert result.exit_code == 0, result.output
    assert world.losses(out) == world.losses("whole")
    for folder in (".", "last"):
        assert weights(world.root / out / folder) == weights(world.root / "whole" / folder)
    return result.output


def test_an_interrupted_run_is_resumed_to_the_same_drafters(finished: World) -> None:
    """Ctrl-C: a last checkpoint, the way to go on, and exit code 130."""
    process = start_until(finished, "stopped", "log.jsonl")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130, output
    assert "--resume" in output
    reached = max(finished.losses("stopped"))
    assert reached < 149
    checkpoints = finished.root / "stopped" / "checkpoints"
    assert (checkpoints / f"step-{reached + 1:08d}").exists()
    assert f"going on behind step {reached + 1}" in resumed(finished, "stopped")
    steps = [row["step"] for row in finished.log("stopped") if "loss" in row]
    assert steps == list(range(150))


def test_a_killed_run_is_resumed_to_the_same_drafters(finished: World) -> None:
    """SIGKILL: steps since the last checkpoint are done again, and come out the same."""
    process = start_until(finished, "killed", "checkpoints/step-00000025")
    process.kill()
    process.communicate()
    log = finished.root / "killed" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"step": 9')  # as a kill in the middle of a line would leave it
    resumed(finished, "killed")


def test_resuming_with_something_else_is_refused_and_named(world: World, tmp_path: Path) -> None:
    assert world.invoke("out", steps=2).exit_code == 0
    other = write_target(tmp_path / "other", seed=3)
    write_answers(tmp_path / "others.jsonl", fingerprint(other), seed=6)
    for option, value, named in (
        ("target", other, f"target {fingerprint(world.root / 'target')} (now "),
        ("data", tmp_path / "others.jsonl", "data "),
        ("heldout", tmp_path / "others.jsonl", "held-out data "),
        ("batch", 3, "batch 2 (now 3)"),
        ("layers", 2, "drafter.num_hidden_layers 1 (now 2)"),
        ("steps", 5, "horizon.steps 2 (now 5); only --schedule wsd can be made longer"),
        ("muon", True, "muon false (now true)"),
        ("d_pace", 0.5, "objective.loss_type dflash (now dpace)"),
    ):
        result = world.invoke("out", **{"steps": 2, "resume": True, option: value})
        assert result.exit_code == 2, option
        assert named in result.output, option
    (world.root / "target" / "chat_template.jinja").write_text("{{ messages }}")
    result = world.invoke("out", steps=2, resume=True)
    assert "cannot be resumed: it was made with tokenizer" in result.output


def test_a_lower_rate_may_be_given_when_resuming(world: World) -> None:
    assert world.invoke("out", steps=2).exit_code == 0
    result = world.invoke("out", steps=2, resume=True, lr=1e-4)
    assert result.exit_code == 0
    assert "schedule.peak 0.0006 (now 0.0001)" in result.output


def test_a_folder_with_checkpoints_is_not_overwritten(world: World) -> None:
    assert world.invoke("out", steps=1).exit_code == 0
    result = world.invoke("out", steps=1)
    assert result.exit_code == 2
    assert "--resume" in result.output


def test_resuming_nothing_begins_anew(world: World) -> None:
    result = world.invoke("out", steps=1, resume=True)
    assert result.exit_code == 0
    assert "starting from the beginning" in result.output


def test_a_drafter_is_chosen_by_one_set_and_reported_on_another(world: World) -> None:
    """The best row's figures on the other set are what is shown, logged last and kept."""
    result = world.invoke("out", steps=40, measure_every=8, lr=0.02, muon=True)
    assert result.exit_code == 0, result.output
    *rows, last = world.log("out")
    measured = [row for row in rows if "tokens_per_round" in row]
    best = next(row for row in reversed(measured) if row["best"])
    assert best["tokens_per_round"] == max(row["tokens_per_round"] for row in measured)
    assert best["reported"]["tokens_per_round"] != best["tokens_per_round"]
    assert (last["ended"], last["best_step"]) == ("finished", best["step"])
    assert last["reported"] == best["reported"]["tokens_per_round"]
    pooled = best["reported"]["tokens_per_round_pooled"]
    interval = best["reported"]["tokens_per_round_interval"]
    assert interval["low"] < last["reported"] < interval["high"]
    assert (
        f"{last['reported']:.2f} tokens per round ({pooled:.2f} pooled; 95 % interval "
        f"{interval['low']:.2f} to {interval['high']:.2f}), on 3 held-out answers"
    ) in result.output
    kept = json.loads((world.root / "out" / "run.json").read_text())
    assert kept["reported"] | {"on": ""} == {"step": best["step"], "on": "", **best["reported"]}
    assert kept["trained_on"].startswith("6 answers of the target")


def test_a_run_of_a_held_rate_is_made_longer(world: World) -> None:
    """Half of a WSD run, then four times as long: the rate is held on, and falls at the new end."""
    wsd = {"schedule": "wsd", "checkpoint_every": 5, "keep": 9, "lr": 1e-3}
    assert world.invoke("out", steps=10, **wsd).exit_code == 0
    refused = world.invoke("out", steps=40, resume=True, **wsd)
    assert refused.exit_code == 2
    assert "horizon.steps 10 (now 40); only --schedule wsd" in refused.output
    shutil.rmtree(world.root / "out" / "checkpoints" / "step-00000010")
    result = world.invoke("out", steps=40, resume=True, **wsd)
    assert result.exit_code == 0, result.output
    assert "going on behind step 5; horizon.steps 10 (now 40)" in result.output
    rates = {row["step"]: row["rate"] for row in world.log("out") if "rate" in row}
    assert [rates[step] for step in range(5, 33)] == [1e-3] * 28
    assert rates[39] < rates[33] < 1e-3


def test_a_vp_drafter_stays_one_when_it_is_started_from(world: World) -> None:
    """What its config says counts: the mode, the base of its prefixes, the shape."""
    options = {"training_mode": "vp_drafter", "steps": 3, "muon": True, "prefix_weight_base": 0.7}
    result = world.invoke("vp", **options)
    assert result.exit_code == 0, result.output
    shape = dict.fromkeys(("layers", "block_size", "target_layers", "mask_token"))
    result = world.invoke("out", start=world.root / "vp", steps=1, **shape)
    assert result.exit_code == 0, result.output
    assert "accuracy by visible slots" in result.output
    table = json.loads((world.root / "out" / "vp.json").read_text())
    assert table["visible"] == [1, 2, 3]
    for visible, row in enumerate(table["accuracy"], start=1):
        assert [share is None for share in row] == [slot < visible for slot in (1, 2, 3)]
    assert table["mean_tokens_per_round"] == pytest.approx(sum(table["tokens_per_round"][1:]) / 2)
    config = json.loads((world.root / "out" / "config.json").read_text())
    assert config["dflash_config"]["training_mode"] == "vp_drafter"
    assert config["dflash_config"]["prefix_weight_base"] == 0.7
    assert (config["block_size"], config["num_hidden_layers"]) == (4, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "dflash2", "selector_rank": 8, "selector_top_k": 4},
        {"soft_label": 0.5, "schedule": "wsd", "epochs": 0.7},
        {"loss_type": "dpace-continuation-value-only", "window": 8, "accumulate": 2},
        {
            "compute_dtype": "bfloat16",
            "dtype": "bfloat16",
            "features": "disk",
            "feature_dtype": "bfloat16",
        },
    ],
    ids=["dflash2", "soft-label", "d-pace", "bfloat16"],
)
def test_every_objective_runs(world: World, options: dict[str, object]) -> None:
    horizon = {} if "epochs" in options else {"steps": 2}
    result = world.invoke("out", **horizon, **options)
    assert result.exit_code == 0, result.output
    load_drafter(world.root / "out", load_target(world.root / "target"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_loss_tokens": 99}, "no answer that can be used"),
        ({"measure_block": 99}, "--measure-block is 99"),
        ({"batch": 7}, "--batch is 7, but there are 6 answers to train on"),
        ({"mask_token": 99999}, "mask_token_id is 99999"),
        ({"block_size": 99999}, "--block-size is 99999, but should be less than or equal to 1024"),
        ({"block_size": 32}, "no gamma is published for blocks above 16, and this one is 32"),
        ({"wandb": "x"}, "pip install wandb"),
        ({"data": "none.jsonl"}, "none.jsonl"),
    ],
)
def test_a_mistake_is_one_line(world: World, options: dict[str, object], message: str) -> None:
    result = world.invoke("out", **options)
    assert result.exit_code == 2
    assert result.output.splitlines()[-1].startswith("dflash-train: error: ")
    assert message in result.output.splitlines()[-1]


def test_a_loss_that_is_no_number_is_one_line_that_names_the_checkpoint(world: World) -> None:
    result = world.invoke("out", steps=5, lr=1e30, clip=1e30, warmup=0)
    assert result.exit_code == 2
    last = result.output.splitlines()[-1]
    assert last.startswith("dflash-train: error: the ")
    assert str(world.root / "out" / "checkpoints" / "step-00000000") in last


def test_a_token_outside_the_vocabulary_is_one_line_that_names_both(world: World) -> None:
    row = {"row": 77, "kind": "k", "tokens": [1, 2, 99999, 3, 4], "loss": [[2, 5]]}
    with (world.root / "answers.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    result = world.invoke("out", steps=1)
    assert result.exit_code == 2
    assert "row 77: token 99999, but the target's vocabulary is" in result.output


def test_answers_beyond_the_targets_context_are_left_out_and_said(world: World) -> None:
    config = json.loads((world.root / "target" / "config.json").read_text())
    context = config["max_position_embeddings"]
    row = {"row": 77, "kind": "k", "tokens": [1] * (context + 1), "loss": [[2, 9]]}
    with (world.root / "answers.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    result = world.invoke("out", steps=1)
    assert result.exit_code == 0, result.output
    assert f"1 answers left out, longer than {context} tokens" in " ".join(result.output.split())
