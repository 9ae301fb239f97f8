"""`dflash-bench exact`: tiny pairs, and the demo's where parts of the CPU path are off."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dflash_serve.bench import exact
from dflash_serve.bench.options import ExactOptions


@pytest.mark.parametrize("name", ["qwen3-tiny", "mistral-tiny", "qwen3_5-tiny"])
def test_a_tiny_pair_is_exact(name: str) -> None:
    options = ExactOptions(
        random_target=name,
        prompts=10,
        prompt_length=12,
        batches=(1, 3),
        block_sizes=(2, 8),
        max_tokens=10,
        cancel=0.3,
        seed=3,
    )
    result = exact.run(options)
    assert result.failures == ()
    assert result.measured["compared"] == 40
    for entry in result.measured["combinations"]:
        assert entry["equal"] + entry["cancelled_prefix"] == 10
        assert entry["wrong"] == entry["leaked_rows"] == 0
    assert any(entry["cancelled_prefix"] for entry in result.measured["combinations"])
    assert any(entry["accepted_drafts"] for entry in result.measured["combinations"])
    assert any(entry["late_joins"] for entry in result.measured["combinations"])
    assert exact.tables(result)
    assert exact.plot(result)


MODES = {
    "without the extension": {"DFLASH_KERNELS": "plain"},
    "with MLX's own matmul": {"DFLASH_CPU_BLAS": "off"},
    "with two threads": {"DFLASH_BLAS_THREADS": "2"},
}


@pytest.mark.parametrize("mode", MODES)
def test_the_demo_pair_is_exact(mode: str, tmp_path: Path) -> None:
    """Greedy and sampled requests in a batch, one of which joins late."""
    out = tmp_path / "exact.json"
    command = [sys.executable, "-m", "dflash_serve.bench.cli", "exact", "--prompts", "3"]
    command += ["--batch", "3", "--block-size", "8", "--max-tokens", "16", "--out", str(out)]
    done = subprocess.run(
        command, env=os.environ | MODES[mode], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (case,) = json.loads(out.read_text())["results"]["combinations"]
    assert case["accepted_drafts"] > 0
    assert case["wrong"] == 0
