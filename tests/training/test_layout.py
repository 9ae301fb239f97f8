"""config.json says what readers would guess, and files are replaced whole or not at all."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_weights
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.loading import read_drafter_config
from dflash_serve.training.drafter.layout import CARD, CONFIG, WEIGHTS, full_config, write_drafter
from tests.adapters.test_dflash_config import PUBLISHED, QWEN3_8B
from tests.tiny import DFLASH2, DRAFTER
from tests.training.disk import no_file_above
from tests.training.files import masters

INNER = DRAFTER["dflash_config"]
SLIDING = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 64}


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


def test_a_full_disk_leaves_the_export_before_it_whole(tmp_path: Path) -> None:
    out, config, weights = tmp_path / "out", full_config(DRAFTER), masters()
    write_drafter(out, config, weights, "float16", "card")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with (
        no_file_above(len(before[WEIGHTS]) // 2),
        pytest.raises(AdapterError, match="cannot write"),
    ):
        write_drafter(out, full_config(DRAFTER, 4), weights, "float32", "other")
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
