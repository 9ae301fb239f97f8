"""What `dflash-doctor` finds out: the machine, MLX's back-end and matmul, a pair's fitness."""

import shutil
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from operator import attrgetter
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from dflash_serve import provenance
from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.exactness import exact_path
from dflash_serve.adapters.layered import LayeredTarget
from dflash_serve.bench import figures
from dflash_serve.bench.arms import make_arm, measure
from dflash_serve.bench.components import measure_costs
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import DecodeOptions
from dflash_serve.bench.pair import Pair, PairChoice
from dflash_serve.bench.work import make_work
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.warm_up import measured_costs
from dflash_serve.kernels import verify_qmm
from dflash_serve.kernels.dispatch import SWITCH, Backend, hand_written, kernel_backend
from dflash_serve.kernels.native import native
from dflash_serve.measure.results import blas

_MATMUL = (8, 1024, 3584)
"""Rows, inner and columns: a block of eight tokens through a wide layer."""


def examine_machine() -> dict[str, Any]:
    """Everything that needs no model."""
    gflops = matmul_gflops()
    return {
        **provenance.origin(),
        "backend": {
            "device": str(mx.default_device()).removeprefix("Device(").removesuffix(")"),
            "kernels": kernel_state(),
            "metal": mx.metal.is_available(),
            "cuda": mx.cuda.is_available(),
        },
        "blas": blas() | {"matmul_gflops": gflops},
        "compiler": shutil.which("g++"),
        "exact_path": exact_path(),
    }


def kernel_state() -> str:
    """What hand-written kernels run by, and what the environment says of them.

    Raises:
        BenchError: the environment asks for something else than on or off.
    """
    try:
        state = _runs_by() if hand_written() else f"off ({SWITCH}=plain)"
        return f"{state}, {verify_qmm.SWITCH}=1" if verify_qmm.enabled() else state
    except ValueError as error:
        raise BenchError(str(error)) from error


def _runs_by() -> str:
    backend = kernel_backend()
    return backend.value if backend is not Backend.PLAIN or native() is None else "CPU extension"


def matmul_gflops() -> float:
    """GFLOP/s of one float32 product of the shape `_MATMUL`, the best of several."""
    rows, inner, columns = _MATMUL
    x, w = mx.random.normal((rows, inner)), mx.random.normal((columns, inner))
    mx.eval(x, w)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        mx.eval(x @ w.T)
        best = min(best, time.perf_counter() - started)
    return 2e-9 * rows * inner * columns / best


def examine_pair(pair: Pair, choice: PairChoice, prompts: int) -> dict[str, Any]:
    """Sizes, round costs, and how many tokens drafting changes (on the exact path, none)."""
    drafter = pair.drafter
    found: dict[str, Any] = pair.describe() | {
        "max_context": pair.target.max_context,
        "vocab_size": pair.target.vocab_size,
        "hidden_size": pair.target.hidden_size,
        "cache_bytes_at_4096": DeviceRunner(pair.target, drafter, 1).bytes_for(4096),
        **weights(pair),
    }
    if drafter is None:
        return found
    block = drafter.block_size
    shapes = [(1, block), (1, max(2, block // 2)), (4, block), (8, block)]
    costs = [
        measure_costs(pair.target, drafter, rows, width, 128).as_dict()
        for rows, width in dict.fromkeys(shapes)
    ]
    return found | {
        "target_layer_ids": list(drafter.target_layer_ids),
        "round_costs": costs,
        "cost_table": _cost_table(pair.target, drafter, block),
        "divergence": divergence(pair, choice, prompts),
    }


def weights(pair: Pair) -> dict[str, Any]:
    """What the target's weights are in memory, and their bytes there and on disk."""
    target = pair.target
    assert isinstance(target, LayeredTarget)
    sizes: Counter[str] = Counter()
    for name, value in tree_flatten(target.parameters()):
        form = str(value.dtype).removeprefix("mlx.core.")
        sizes["quantised" if value.dtype == mx.uint32 or _scales(name) else form] += value.nbytes
    found: dict[str, Any] = {
        "target_weights": ", ".join(f"{form} {size / 1e6:.1f} MB" for form, size in sizes.items()),
        "target_bytes_in_memory": sizes.total(),
    }
    if pair.directory is not None:
        files = pair.directory.glob("*.safetensors")
        found["target_bytes_on_disk"] = sum(file.stat().st_size for file in files)
    return found


def _scales(name: str) -> bool:
    return name.endswith((".scales", ".biases"))


def _cost_table(target: TargetAdapter, drafter: DraftAdapter, block: int) -> list[dict[str, float]]:
    """What the engine's own warm-up measures: milliseconds by rows and width."""
    config = EngineConfig(
        max_context=min(4096, target.max_context), block_size=block, adaptive=True
    )
    with closing(DeviceRunner(target, drafter, block)) as runner:
        costs = measured_costs(runner, config, runner.bytes_for)
    points = sorted(costs, key=attrgetter("rows", "width"))
    return [{"rows": p.rows, "width": p.width, "ms": 1e3 * p.seconds} for p in points]


def divergence(pair: Pair, choice: PairChoice, prompts: int) -> dict[str, Any]:
    """Greedy tokens of a few prompts, drafted in a batch, against plain ones one at a time."""
    options = DecodeOptions(prompts=prompts, max_tokens=48, seed=choice.seed)
    work = make_work(options, pair)
    block = work.drafter.runtime_block_size
    arms = [
        make_arm(pair, work, "plain", work.config(1, 1)),
        make_arm(pair, work, "drafted", work.config(4, block), work.drafter),
    ]
    reference, run = measure(arms, 0)
    wanted = figures.tokens_of(reference)
    answers = list(run.answers.values())
    return {
        "requests": len(work.requests),
        "tokens": sum(len(tokens) for tokens in wanted.values()),
        "different_requests": len(figures.differing(run.answers, wanted)),
        "different_tokens": _different_tokens(figures.tokens_of(run), wanted),
        **figures.both_rounds(answers),
    }


def _different_tokens(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> int:
    """Positions that differ; after a first difference the texts go separate ways."""
    total = 0
    for key, tokens in wanted.items():
        other = found[key]
        total += sum(a != b for a, b in zip(other, tokens, strict=False))
        total += abs(len(other) - len(tokens))
    return total
