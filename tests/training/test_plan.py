"""The plan of a run against what a small run really holds, and the command's answers."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from typer.testing import CliRunner

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.loading import load_target
from dflash_serve.adapters.planned import planned_weights
from dflash_serve.compose.directories import DEMO
from dflash_serve.training.cli import app
from dflash_serve.training.drafter.initialise import DrafterShape, drafter_config
from dflash_serve.training.run.budget import step_bytes
from dflash_serve.training.run.job import train_options
from dflash_serve.training.run.run_data import read_data
from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.trainer import TrainOptions
from dflash_serve.training.run.trial import Trial
from tests.tiny import write_target
from tests.training.conftest import TARGET_CONFIG

SHAPE = DrafterShape(60, 2, 6)


def settings(**options: Any) -> RunSettings:
    given = {"target": "t", "data": "d", "out": "o", **options}
    return RunSettings.model_validate(given)


def held(arrays: Any, part: str) -> int:
    """Bytes of a part of a trainer's state but for counters."""
    named = tree_flatten(arrays)
    return sum(value.nbytes for name, value in named if name.startswith(part) and value.ndim)


@pytest.mark.usefixtures("op_by_op")
@pytest.mark.parametrize("architecture", ["v1", "dflash2"])
@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_that_a_trainer_holds(
    architecture: str, muon: bool, dtype: str, tmp_path: Path
) -> None:
    shape = SHAPE if architecture == "v1" else DrafterShape(60, 2, 6, selector_rank=4)
    drafter = drafter_config(TARGET_CONFIG, shape)
    options = TrainOptions(Horizon(steps=1), batch=1, gamma=4.0, muon=muon, compute_dtype=dtype)
    trial = Trial(TARGET_CONFIG, drafter, options, 24, tmp_path)
    trial.step(0)
    state, model = trial.state(), dict(tree_flatten(trial.drafter.model.parameters()))
    trial.close()
    planned = step_bytes(drafter, settings(muon=muon, compute_dtype=dtype), 24)
    assert planned["masters"] == held(state, "masters")
    assert planned["optimizer"] == held(state, "optimizer")
    assert planned["gradients"] == planned["masters"]
    copies = sum(value.nbytes for value in model.values())
    assert planned["copies"] == (copies if dtype == "bfloat16" else 0)
    assert trial.parameters * 4 == planned["masters"]


def test_a_targets_bytes_are_those_that_loading_holds() -> None:
    directory = DEMO / "target"
    loaded = tree_flatten(load_target(directory).parameters())
    planned = planned_weights(read_config(directory), "demo")
    assert planned.held == sum(value.nbytes for _, value in loaded)
    on_disk = mx.load(str(directory / "model.safetensors"))
    assert isinstance(on_disk, dict)
    assert planned.stored == sum(value.nbytes for value in on_disk.values())


def test_a_quantised_target_is_planned_by_its_settings() -> None:
    plain = {**TARGET_CONFIG, "hidden_size": 64, "intermediate_size": 64, "dtype": "bfloat16"}
    packed = plain | {"quantization": {"group_size": 32, "bits": 4}}
    # 4 bits, and a 16-bit scale and bias for 32 of them, of matrices alone
    matrices = 4 * (2 * 64 * 32 + 2 * 64 * 16 + 3 * 64 * 64) + 61 * 64
    saved = matrices * 2 - (matrices // 2 + matrices // 32 * 4)
    stored = [planned_weights(config, "t").stored for config in (plain, packed)]
    assert stored[0] - stored[1] == saved


def test_experts_are_read_by_those_tokens_that_draw_them() -> None:
    config = {
        **TARGET_CONFIG,
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    }
    planned = planned_weights(config, "t")
    assert planned.experts == 4 * 8 * 3 * 16 * 32
    assert planned.read(1) == planned.dense + planned.experts / 4
    assert planned.read(1000) == pytest.approx(planned.dense + planned.experts)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"dtype": "float8"},
            "t: dtype is 'float8', but must be one of bfloat16, float16, float32",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method is 'awq'"),
        ({"hidden_size": 0}, "hidden_size is 0, but must be a positive integer"),
    ],
)
def test_configs_that_tell_no_bytes_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        planned_weights({**TARGET_CONFIG, **change}, "t")


def target(folder: Path, **changes: Any) -> str:
    """A directory with nothing but a config.json."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**TARGET_CONFIG, **changes}))
    return str(folder)


def plan(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def test_a_plan_needs_a_config_and_nothing_else(tmp_path: Path) -> None:
    code, out, _ = plan(
        "--target", target(tmp_path / "t"), "--layers", "2", "--block-size", "6",
        "--answers", "100", "--length", "40", "--epochs", "2", "--no-measure", "--json",
        "--out", str(tmp_path / "new" / "drafter"),
    )  # fmt: skip
    told = json.loads(out)
    assert (code, told["fits"], told["hours"]) == (0, True, None)
    budget = told["budget"]
    assert budget["feature_bytes"] == 100 * 40 * 2 * 2 * 32  # two bytes, two taps
    assert budget["memory"]["features"] == budget["feature_bytes"]
    assert told["answers"]["held_back"] == 10
    assert budget["operations"]["steps"] == 2 * 12  # of 8 answers and a last one of 2
    assert budget["memory"]["total"] == sum(
        value for name, value in budget["memory"].items() if name != "total"
    )
    assert not (tmp_path / "new").exists()


def test_hours_are_measured(tmp_path: Path) -> None:
    code, out, _ = plan(
        "--target", target(tmp_path / "t"), "--layers", "1", "--steps", "3", "--length", "200"
    )
    assert code == 0
    assert "3 steps of" in out
    assert "Time, an estimate" in out


def test_what_does_not_fit_is_said_with_what_would_help(tmp_path: Path) -> None:
    huge = target(tmp_path / "t", hidden_size=65536, intermediate_size=262144)
    code, out, _ = plan("--target", huge, "--no-measure", "--length", "200")
    assert code == 1
    assert "GB of memory are missing" in out
    for help_ in ("--features disk", "--muon", "--accumulate 8", "in 4 bits"):
        assert help_ in out


@pytest.mark.parametrize("heldout", [False, True])
def test_a_run_on_a_file_is_as_long_as_its_plan(tmp_path: Path, heldout: bool) -> None:
    """Two answers of each of 15 chats, one answer that is too long, one that is too short."""
    rows = [([chat, 9, *turn], 5) for chat in range(15) for turn in ([], [8])]
    rows += [([1], 600), ([2], 1)]
    lines: list[dict[str, Any]] = [{"target": "x"}]
    for row, (prompt, length) in enumerate(rows):
        lines.append({"row": row, "kind": "", "prompt": prompt, "answer": length * [7]})
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = write_target(tmp_path / "t")
    options = {"target": str(folder), "data": path, "out": tmp_path / "o", "batch": 3}
    options |= {"heldout": path} if heldout else {}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    _, out, _ = plan(*words, "--no-measure", "--json")
    told = json.loads(out)
    assert told["answers"] == {
        "sequences": 30, "tokens": 225, "answer_tokens": 150, "longest": 8,
        "held_back": 0 if heldout else 4,
    }  # fmt: skip
    made = settings(**options)
    loaded = load_target(folder)
    found = read_data(made, folder, loaded, lambda _: None)
    steps = -(-len(found.train) // 3)
    horizon = train_options(made, 4, 0.0, len(found.train)).horizon.in_steps(steps)
    assert told["budget"]["operations"]["steps"] == horizon.steps
    assert told["length"] == made.describe_length(steps)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--answer-length", "600"), "--answer-length is 600, but must be below --length"),
        (("--length", "400"), "answers of 800 tokens, but the target's context is 512"),
        (("--answers", "2"), "--answers is 2: 3 conversations are needed"),
        (("--steps", "5", "--epochs", "2"), "give only one of --steps, --epochs and --minutes"),
        (("--length", "40", "--data", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], told: str, tmp_path: Path) -> None:
    code, _, err = plan("--target", target(tmp_path / "t"), "--no-measure", *arguments)
    assert code == 2
    assert err.startswith("dflash-train: error: ")
    assert told in err
