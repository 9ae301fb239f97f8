"""mlx-lm's ``stream_generate`` on the same target and prompts, each time in a fresh process.

Variants: as-installed (the wheel's matmul, the dtype on disk), float32 (the wheel's matmul, weights
as this engine computes them), float32-blas (the same over this package's matmul).
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_serve.bench.errors import BenchError
from dflash_serve.kernels import cpu_blas
from dflash_serve.measure.figures import Speed, time_per_output_token

VARIANTS = ("as-installed", "float32", "float32-blas")
SCRIPT = Path(__file__).with_name("mlx_lm_run.py")
_TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class BaselineRun:
    """Answers in the prompts' order, without stop tokens, and how fast they came."""

    answers: list[tuple[int, ...]]
    speed: Speed


def run_mlx_lm(
    variant: str, target: Path, prompts: Sequence[Sequence[int]], max_tokens: int
) -> BaselineRun:
    """Greedy decoding of all prompts, one after the other.

    Raises:
        BenchError: the process failed.
    """
    job = {
        "target": str(target),
        "prompts": [list(prompt) for prompt in prompts],
        "max_tokens": max_tokens,
        "float32": variant != "as-installed",
    }
    done = _run(job, environment(variant))
    answers = done["answers"]
    per_token = time_per_output_token((one["decode"], one["generated"]) for one in answers)
    generated = sum(answer["generated"] for answer in answers)
    return BaselineRun(
        [tuple(answer["tokens"]) for answer in answers], Speed(generated, done["wall"], per_token)
    )


def environment(variant: str) -> dict[str, str]:
    """The process's environment: the stock matmul, or for float32-blas this package's."""
    changed = dict(os.environ) | {"DFLASH_CPU_BLAS": "off", "HF_HUB_OFFLINE": "1"}
    if variant == "float32-blas":
        library = cpu_blas.status().path
        if library is None:
            raise BenchError("float32-blas needs this package's matmul, which is not loaded here")
        changed["LD_PRELOAD"] = str(library)
    return changed


def _run(job: dict[str, Any], variables: dict[str, str]) -> dict[str, Any]:
    # -P: the script's own directory stays off sys.path, where its neighbours would hide packages
    command = [sys.executable, "-P", str(SCRIPT)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            env=variables,
            timeout=_TIMEOUT,
            check=True,
        )
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or "").strip().splitlines()[-1:] or ["no message"]
        raise BenchError(f"mlx-lm's stream_generate failed: {reason[0]}") from error
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError) as error:
        raise BenchError(f"mlx-lm's stream_generate gave no result: {error}") from error
    return result
