"""The demo pair's texts where parts of the CPU path are off: slower, and as exact."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
