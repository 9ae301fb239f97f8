"""The script that checks real shapes: what it writes loads, in small and in the published sizes."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.adapters.loading import check_files, load_drafter, load_target
from dflash_serve.adapters.shard_header import read_header

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["qwen3-8b", "qwen3.5-9b", "llama-3.1-8b", "gemma-3-12b"]


@pytest.fixture(scope="module")
def script() -> typer.Typer:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        app: typer.Typer = import_module("shapes").app
    return app


def run(script: typer.Typer, *arguments: object) -> None:
    done = CliRunner().invoke(script, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("name", NAMES)
def test_a_small_pair_of_each_shape_loads(script: typer.Typer, tmp_path: Path, name: str) -> None:
    run(script, "write", name, tmp_path / "pair", "--tiny")
    target, drafter = tmp_path / "pair/target", tmp_path / "pair/drafter"
    check_files(target, drafter)
    loaded = load_target(target)
    assert load_drafter(drafter, loaded).target_layer_ids[-1] < loaded.num_layers
    assert read_config(target)["quantization"]["bits"] == 4
    header = read_header(target / "model-00001-of-00001.safetensors")
    assert {tensor.dtype for tensor in header.values()} == {"U32", "BF16"}


def test_a_check_says_what_loading_and_serving_took(script: typer.Typer, tmp_path: Path) -> None:
    out = tmp_path / "shapes.json"
    options = ("--out", out, "--option=--block-size", "--option=2")
    run(script, "check", "qwen3-8b", "--tiny", *options)
    found: dict[str, Any] = json.loads(out.read_text())["results"]["qwen3-8b"]
    assert list(found) == ["with target", "with drafter"]
    for measured in found.values():
        assert measured["tokens"] == 3
        assert measured["bytes_read_over_disk"] >= 1
        assert measured["peak_resident_bytes"] > measured["bytes_on_disk"]
    assert found["with drafter"]["bytes_on_disk"] > found["with target"]["bytes_on_disk"]
    assert len(found["with drafter"]["log"]) == 2
