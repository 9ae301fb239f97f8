"""Exports hold what other readers look for, and a failing one leaves the last one whole."""

import json
import resource
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from typer.testing import CliRunner

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_config, read_weights
from dflash_serve.adapters.dflash import DFlashModel
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.loading import load_drafter, load_target, read_drafter_config
from dflash_serve.training.cli import app
from dflash_serve.training.drafter.layout import CARD, CONFIG, WEIGHTS, full_config, write_drafter
from dflash_serve.training.run.checkpoint import Checkpoint, CheckpointStore
from dflash_serve.training.run.record import RunRecord, Worth
from tests.adapters.test_dflash_config import PUBLISHED, QWEN3_8B
from tests.tiny import DRAFTER, write_target
from tests.tiny import write_drafter as write_tiny

INNER = DRAFTER["dflash_config"]
SLIDING = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 64}
DFLASH2 = {
    "architectures": ["DFlash2DraftModel"],
    "dflash_config": INNER
    | {"conv_kernel_size": 2, "conv_group_size": 16, "selector_rank": 4, "selector_top_k": 3},
}


def masters(config: dict[str, Any] = DRAFTER) -> dict[str, mx.array]:
    mx.random.seed(3)
    return dict(tree_flatten(DFlashModel(parse_dflash_config(config)).parameters()))


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
    return {"step": step, **figures(value), "best": best, "reported": figures(value - 1)}


def figures(value: float) -> dict[str, float]:
    return {"tokens_per_round": value, "tokens_per_round_pooled": value + 0.5}


def record(trained_on: str = "1,204 greedy answers of the target") -> RunRecord:
    worth = Worth(step=200, on="41 answers that did not choose it", tokens_per_round=2.25)
    return RunRecord(target="Qwen/Qwen3-8B", trained_on=trained_on, reported=worth)


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_checkpoint_is_cut_once_from_its_float32_masters(
    dtype: str, run_folder: Path, tmp_path: Path
) -> None:
    source = run_folder / "checkpoints" / "step-00000200"
    code, output = invoke(source, "--out", tmp_path / "out", "--dtype", dtype)
    assert code == 0, output
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
            "2.25 tokens per round (2.75 pooled), on 41 answers that did not choose it, after 200",
        ),
        ("last", "2.00 tokens per round (2.50 pooled), on 41 answers that did not choose it"),
        ("checkpoints/step-00000200", "2.25 tokens per round (2.75 pooled)"),
    ],
)
def test_the_card_says_what_was_measured_of_this_one_and_on_what(
    part: str, told: str, run_folder: Path, tmp_path: Path
) -> None:
    """Not on the answers that it was chosen by."""
    code, output = invoke(run_folder / part, "--out", tmp_path / "out", "--runtime-block-size", 6)
    assert code == 0, output
    card = (tmp_path / "out" / CARD).read_text()
    assert told in card
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
    assert invoke(run_folder, "--out", tmp_path / "out")[0] == 0
    card = (tmp_path / "out" / CARD).read_text()
    assert f"## Trained on\n{trained_on[0].upper()}{trained_on[1:]}.\n" in card
    assert card.count("greedy") == trained_on.count("greedy")
    assert "dflash-serve --target Qwen/Qwen3-8B --drafter out" in card
    (run_folder / "run.json").write_text('{"target": 3}')
    code, output = invoke(run_folder, "--out", tmp_path / "other")
    assert (code, "run.json cannot be read" in output, output.count("\n")) == (2, True, 1)


def test_a_card_names_no_folder_of_this_machine(run_folder: Path, tmp_path: Path) -> None:
    code, output = invoke(run_folder, "--out", tmp_path / "out", "--target", tmp_path / "Tiny-1M")
    assert code == 0, output
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
        assert invoke(run_folder / part, "--out", tmp_path / "out")[0] == 0
        assert figure in (tmp_path / "out" / CARD).read_text()


def test_the_card_of_a_vp_drafter_says_what_was_measured(run_folder: Path, tmp_path: Path) -> None:
    inner = INNER | {"training_mode": "vp_drafter", "prefix_weight_base": 0.9}
    (run_folder / CONFIG).write_text(json.dumps(DRAFTER | {"dflash_config": inner}))
    row = measured(200, 4.25, True)
    row["reported"]["tokens_per_round_pooled"] = None
    (run_folder / "log.jsonl").write_text(json.dumps(row) + "\n")
    assert invoke(run_folder, "--out", tmp_path / "out")[0] == 0
    card = (tmp_path / "out" / CARD).read_text()
    assert "A VP-drafter (prefix weight base 0.9)" in card
    assert "3.25 tokens per round behind a visible prefix" in card
    written = read_config(tmp_path / "out")["dflash_config"]
    assert {key: written[key] for key in inner} == inner


def test_what_is_not_known_is_said_too(tmp_path: Path) -> None:
    code, output = invoke(write_tiny(tmp_path / "in"), "--out", tmp_path / "out")
    assert code == 0, output
    card = (tmp_path / "out" / CARD).read_text()
    assert "## Trained on\nNot known." in card
    assert "## Measured\nNothing yet." in card


def test_an_export_is_served_with_the_runs_weights(run_folder: Path, tmp_path: Path) -> None:
    assert invoke(run_folder, "--out", tmp_path / "out", "--dtype", "float32")[0] == 0
    target = load_target(write_target(tmp_path / "target"))
    served, trained = (
        dict(tree_flatten(load_drafter(path, target).model.parameters()))
        for path in (tmp_path / "out", run_folder)
    )
    assert served.keys() == trained.keys()
    assert all(mx.array_equal(served[name], trained[name]).item() for name in trained)


@pytest.mark.parametrize(
    ("changes", "written"),
    [
        ({}, {"is_causal": False, "use_sliding_window": False, "sliding_window": None}),
        (SLIDING, {"is_causal": True, "use_sliding_window": True, "sliding_window": 64}),
        (SLIDING | {"is_causal": False}, {"is_causal": False}),
        (
            SLIDING | {"layer_types": ["sliding_attention", "full_attention"]},
            {"is_causal": None, "use_sliding_window": True},
        ),
        ({"dflash_config": INNER | {"causal_head": True}}, {"is_causal": True}),
        ({"dflash_config": INNER | {"block_size": 8}}, {"block_size": 8}),
        (DFLASH2, {"architectures": ["DFlash2DraftModel"]}),
    ],
)
def test_the_config_says_outright_what_readers_would_guess(
    changes: dict[str, Any], written: dict[str, Any]
) -> None:
    raw = DRAFTER | changes
    config = full_config(raw)
    assert {key: config[key] for key in written} == written
    assert config["dflash_config"]["block_size"] == config["block_size"]
    assert config["model_type"] == "qwen3"
    assert parse_dflash_config(config) == parse_dflash_config(raw)
    assert full_config(config) == config


@pytest.mark.parametrize("changes", [changes for _, changes, _ in PUBLISHED])
def test_every_published_layout_keeps_its_meaning(changes: dict[str, Any]) -> None:
    """The Python file that z-lab's configs name is not shipped, and not named."""
    raw = QWEN3_8B | changes
    config = full_config(raw)
    assert parse_dflash_config(config) == parse_dflash_config(raw)
    assert "auto_map" in raw
    assert "auto_map" not in config


def test_keys_at_the_top_move_to_where_every_reader_looks() -> None:
    top = {key: value for key, value in DRAFTER.items() if key != "dflash_config"} | INNER
    config = full_config(top | {"output_multiplier": 0.5, "eos_token_id": 7})
    assert config["dflash_config"] == INNER | {"output_multiplier": 0.5, "block_size": 16}
    assert not INNER.keys() & config.keys()
    assert config["eos_token_id"] == 7


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
    code, output = invoke(tmp_path / source, "--out", tmp_path / "out")
    assert code == 2
    assert message in output
    assert output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_refused(run_folder: Path, tmp_path: Path) -> None:
    source = run_folder / "checkpoints" / "step-00000200"
    arrays = source / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    code, output = invoke(source, "--out", tmp_path / "out")
    assert (code, "damaged" in output, output.count("\n")) == (2, True, 1)


def test_a_full_disk_leaves_the_export_before_it_whole(tmp_path: Path) -> None:
    out, config, weights = tmp_path / "out", full_config(DRAFTER), masters()
    write_drafter(out, config, weights, "float16", "card")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before[WEIGHTS]) // 2, hard))
    try:
        with pytest.raises(AdapterError, match="cannot write"):
            write_drafter(out, full_config(DRAFTER, 4), weights, "float32", "other")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_export_replaces_all_of_the_one_before(tmp_path: Path) -> None:
    for dtype, runtime in (("float32", None), ("float16", 4)):
        write_drafter(tmp_path, full_config(DRAFTER, runtime), masters(), dtype, f"card {dtype}")
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, WEIGHTS, CARD}
    assert read_drafter_config(tmp_path).runtime_block_size == 4
    assert read_weights(tmp_path)["fc.weight"].dtype == mx.float16
    assert "card float16" in (tmp_path / CARD).read_text()


def test_a_card_of_the_users_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("mine")
    write_drafter(tmp_path, full_config(DRAFTER), masters(), "float32", "stub")
    assert (tmp_path / CARD).read_text() == "mine"


def test_shards_that_would_be_read_instead_are_not_written_beside(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(AdapterError, match="holds another checkpoint"):
        write_drafter(tmp_path, full_config(DRAFTER), masters(), "float32")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_values_that_the_dtype_cannot_hold_are_refused(value: float, tmp_path: Path) -> None:
    weights = masters() | {"norm.weight": mx.full((64,), value)}
    with pytest.raises(AdapterError, match=r"norm\.weight has values that are not finite"):
        write_drafter(tmp_path / "out", full_config(DRAFTER), weights, "float16")
    assert not (tmp_path / "out").exists()
