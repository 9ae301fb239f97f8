"""`dflash-bench exact`: tiny pairs, and the demo's where parts of the CPU path are off."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from dflash_serve.bench import exact
from dflash_serve.bench.options import ExactOptions
from dflash_serve.kernels import cpu_blas


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


DEMO = {"prompts": 3, "batches": (3,), "block_sizes": (8,), "max_tokens": 12}
"""Greedy and sampled requests of the demo pair in a batch, one of which joins late."""
PROCESS = f"""
import json
from dflash_serve.bench import exact
from dflash_serve.bench.options import ExactOptions
print(json.dumps(exact.run(ExactOptions(**{DEMO})).measured))
"""


def expect_exact(measured: Mapping[str, Any]) -> None:
    (case,) = measured["combinations"]
    assert case["accepted_drafts"] > 0
    assert case["wrong"] == 0


@pytest.mark.parametrize(
    "switch",
    [{"DFLASH_KERNELS": "plain"}, {"DFLASH_CPU_BLAS": "off"}],
    ids=["without the extension", "with MLX's own matmul"],
)
def test_the_demo_pair_is_exact(switch: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROCESS],
        env=os.environ | switch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expect_exact(json.loads(done.stdout))


@pytest.mark.skipif(cpu_blas.status().path is None, reason="MLX has its own matmul here")
def test_the_demo_pair_is_exact_with_two_threads() -> None:
    status = cpu_blas.status()
    library = ctypes.CDLL(str(status.path))
    library.dflash_blas_set_threads(2)
    try:
        expect_exact(exact.run(ExactOptions(**DEMO)).measured)
    finally:
        library.dflash_blas_set_threads(status.threads)
