"""Names of published targets lead to their drafters; other names lead nowhere."""

import subprocess
import sys

import pytest

from dflash_serve.adapters import registry
from dflash_serve.adapters.pairs import DFLASH, DSPARK, JETSPEC, PAIRS, find_pair, find_pairs


@pytest.mark.parametrize(
    "name",
    [
        "Qwen3-8B",
        "qwen3-8b",
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-8B-FP8",
        "mlx-community/Qwen3-8B-4bit",
        "mlx-community/Qwen3-8B-8bit",
        "mlx-community/Qwen3-8B-4bit-DWQ",
        "mlx-community/Qwen3-8B-4bit-DWQ-053125",
        "mlx-community/Qwen3-8B-MXFP4",
        "mlx-community/Qwen3-8B-mxfp4-q8",
        "lmstudio-community/Qwen3-8B-MLX-4bit",
        "mlx-community/Qwen3-8B-bf16",
        "/models/Qwen3-8B",
        "/models/Qwen3-8B/",
        "./Qwen3-8B-4bit/",
    ],
)
def test_variants_of_a_published_target_share_its_drafter(name: str) -> None:
    pair = find_pair(name)
    assert pair is not None
    assert (pair.target, pair.drafter) == ("Qwen/Qwen3-8B", "z-lab/Qwen3-8B-DFlash-b16")
    assert [found.kind for found in find_pairs(name)] == [DFLASH, JETSPEC, DSPARK]


@pytest.mark.parametrize(
    "name",
    ["Qwen3-9B", "Qwen3-8B-Base", "Qwen3-8B-finetuned", "Qwen3-32B", "my-Qwen3-8B", "", "/", "x/y"],
)
def test_a_target_without_a_published_drafter_has_no_pair(name: str) -> None:
    assert find_pair(name) is None


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("mlx-community/Meta-Llama-3.1-8B-Instruct-4bit", "meta-llama/Llama-3.1-8B-Instruct"),
        ("mlx-community/gpt-oss-20b-MXFP4-Q8", "openai/gpt-oss-20b"),
        ("mlx-community/gemma-4-12b-it-4bit", "google/gemma-4-12B-it"),
        ("mlx-community/Qwen3.6-35B-A3B-4bit", "Qwen/Qwen3.6-35B-A3B"),
        ("Qwen3.8-27B-nvfp4", "Qwen/Qwen3.8-27B"),
    ],
)
def test_renamed_and_converted_targets_are_found(name: str, target: str) -> None:
    pair = find_pair(name)
    assert pair is not None
    assert pair.target == target


def test_every_pair_is_found_and_named_once() -> None:
    assert len({pair.drafter for pair in PAIRS}) == len(PAIRS)
    for pair in PAIRS:
        assert pair.drafter.count("/") == 1
        assert pair in find_pairs(pair.target)


def test_a_pair_says_that_its_target_is_served_only_where_an_adapter_does() -> None:
    for pair in PAIRS:
        assert not pair.served or pair.family in registry.TARGETS, pair


def test_the_list_of_pairs_comes_without_loading_mlx() -> None:
    """One line per pair where the output is no terminal."""
    code = (
        "import sys\n"
        "from dflash_serve.server import cli\n"
        "sys.argv = ['dflash-serve', '--list-pairs']\n"
        "try:\n"
        "    cli.main()\n"
        "finally:\n"
        "    assert not {'mlx', 'mlx.core', 'transformers', 'fastapi'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == len(PAIRS)
    assert lines[0] == ["Qwen/Qwen3-4B", "z-lab/Qwen3-4B-DFlash-b16", "DFlash", "16", "qwen3"]
    assert ["zai-org/GLM-5.1", "~z-lab/GLM-5.1-DFlash", "DFlash", "?", "not served"] in lines
