"""mlx-lm's ``stream_generate`` on the same target and prompts, each time in a fresh process.

Variants: as-installed (the wheel's matmul, the dtype on disk), float32 (the wheel's matmul, weights
as this engine computes them), float32-blas (the same over this package's matmul).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dflash_serve.bench.spawn import environment, run_job
from dflash_serve.measure.figures import Speed, time_per_output_token

SCRIPT = Path(__file__).with_name("mlx_lm_run.py")


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
    # -P: the script's own directory stays off sys.path, where its neighbours would hide packages
    command = [sys.executable, "-P", str(SCRIPT)]
    done = run_job("mlx-lm's stream_generate", command, job, environment(variant))
    answers = done["answers"]
    per_token = time_per_output_token((one["decode"], one["generated"]) for one in answers)
    generated = sum(answer["generated"] for answer in answers)
    return BaselineRun(
        [tuple(answer["tokens"]) for answer in answers], Speed(generated, done["wall"], per_token)
    )
