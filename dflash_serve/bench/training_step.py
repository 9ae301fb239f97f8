"""dflash-train profile: the compiled training step against the same step written plainly.

Random weights and features, no target in the step: what is measured is the step alone.
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
import psutil
from mlx import optimizers
from rich.console import Console
from rich.table import Table

from dflash_serve import provenance
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import make_target
from dflash_serve.atomic_files import replace_json
from dflash_serve.bench.plain_step import PlainStep
from dflash_serve.training.data import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.drafter.initialise import DrafterShape, drafter_config, new_drafter
from dflash_serve.training.step.blocks import BlockRecipe, make_blocks
from dflash_serve.training.step.loss import Objective
from dflash_serve.training.step.train_step import StepBatch, TrainStep

Step = Callable[[StepBatch], mx.array]
_RATE = 1e-4
_MANY = 60  # steps over which memory must not grow


@dataclass(frozen=True, slots=True)
class Shape:
    """One drafter and batch: S sequences of T tokens, N blocks of B slots each.

    ``plain`` off leaves the plain step out: its logits alone would not fit.
    """

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    taps: int
    layers: int
    sequences: int
    length: int
    anchors: int
    block: int
    steps: int
    plain: bool = True

    @property
    def logit_bytes(self) -> int:
        """All logits of a step, in float32."""
        rows = self.sequences * self.anchors * (self.block - 1)
        return 4 * rows * self.vocab


SHAPES = {
    "demo": Shape(256, 576, 4, 2, 64, 1024, 4, 2, 4, 256, 64, 8, steps=4),
    "sparse": Shape(256, 576, 4, 2, 64, 1024, 4, 2, 8, 256, 16, 8, steps=4),
    "recipe": Shape(256, 576, 4, 2, 64, 1024, 4, 2, 1, 1024, 512, 8, steps=1),
    "medium": Shape(512, 1536, 8, 4, 64, 32_000, 5, 4, 1, 512, 64, 16, steps=1),
    "large": Shape(128, 256, 2, 1, 64, 151_936, 5, 1, 1, 1024, 512, 16, steps=1, plain=False),
}
"""The embedded pair's size with many blocks, few, and the published recipe's; a middling one; a
large vocabulary."""


def profile(out: Path | None, names: list[str], rounds: int) -> None:
    """Measure the named shapes; a table on the terminal, JSON and a plot at ``out``.

    Raises:
        DataError: a name is unknown, or ``out`` cannot be written.
    """
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        raise DataError(f"shape {unknown[0]!r} is none of {', '.join(SHAPES)}")
    console, results = Console(), {}
    for name in names:
        with console.status(f"{name} ..."):
            results[name] = _measure(SHAPES[name], rounds)
        console.print(_table(name, results[name]))
    if out is not None:
        _write(out, results, rounds)


def _measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Peak memory of each step by itself, then time in turns, then growth over many steps."""
    batch = _batch(shape)
    kinds = {"compiled": _compiled, **({"plain": _plain} if shape.plain else {})}
    found: dict[str, Any] = {
        "tokens_per_step": int(np.count_nonzero(np.array(batch.weights))),
        "logit_bytes": shape.logit_bytes,
        "peak_bytes": {kind: _peak(make(shape), batch) for kind, make in kinds.items()},
    }
    if not shape.plain:
        return found
    steps = {kind: make(shape) for kind, make in kinds.items()}
    for step in steps.values():
        step(batch)
    found["seconds_per_step"] = _seconds(steps, batch, shape.steps, rounds)
    found |= _ratios(found)
    if shape is SHAPES["demo"]:
        found["growth"] = _growth(steps["compiled"], batch)
    return found


def _ratios(found: dict[str, Any]) -> dict[str, Any]:
    seconds, peaks = found["seconds_per_step"], found["peak_bytes"]
    pairs = zip(seconds["plain"], seconds["compiled"], strict=True)
    return {
        "seconds_per_token": {
            kind: median(values) / found["tokens_per_step"] for kind, values in seconds.items()
        },
        "times_faster": median(plain / compiled for plain, compiled in pairs),
        "peak_share": peaks["compiled"] / peaks["plain"],
    }


def _peak(step: Step, batch: StepBatch) -> int:
    """Bytes at the worst moment of two steps, everything that MLX holds included."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    for _ in range(2):
        step(batch)
    return int(mx.get_peak_memory())


def _seconds(
    steps: dict[str, Step], batch: StepBatch, count: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds per step of each kind, one figure per round; the kinds take turns."""
    taken: dict[str, list[float]] = {kind: [] for kind in steps}
    for _ in range(rounds):
        for kind, step in steps.items():
            started = time.perf_counter()
            for _ in range(count):
                step(batch)
            taken[kind].append((time.perf_counter() - started) / count)
    return taken


def _growth(step: Step, batch: StepBatch) -> dict[str, Any]:
    """Memory of MLX and of the process while many steps go by."""
    process = psutil.Process()
    rows: dict[str, list[int]] = {"step": [], "active_bytes": [], "resident_bytes": []}
    for number in range(_MANY + 1):
        if number % (_MANY // 6) == 0:
            rows["step"].append(number)
            rows["active_bytes"].append(int(mx.get_active_memory()))
            rows["resident_bytes"].append(int(process.memory_info().rss))
        step(batch)
    return rows


def _batch(shape: Shape) -> StepBatch:
    """Random sequences, all of them answer; the same for both steps."""
    rng = np.random.default_rng(0)
    examples = [
        Example(
            rng.integers(0, shape.vocab - 1, shape.length).astype(np.int32),
            np.ones(shape.length, dtype=np.bool_),
        )
        for _ in range(shape.sequences)
    ]
    recipe = BlockRecipe(shape.block, shape.anchors, 7.0)
    blocks = make_blocks(examples, [rng] * shape.sequences, recipe)
    taps = rng.normal(size=(shape.sequences, shape.length, shape.taps * shape.hidden))
    arrays = (blocks.anchors, blocks.labels, blocks.weights, blocks.visible)
    given = [mx.array(array) for array in (taps.astype(np.float32), *arrays)]
    mx.eval(given)
    return StepBatch(given[0], None, *given[1:])


def _drafter(shape: Shape) -> DFlashDrafter:
    """New, for a target of which only the embedding, which is its head too, ever exists."""
    config = {
        "model_type": "qwen3",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_hidden_layers": shape.taps,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    }
    mx.random.seed(0)
    target = make_target(config)
    mx.eval(target.embed(mx.array([0])))
    free = DrafterShape(
        shape.vocab - 1, shape.layers, shape.block, target_layer_ids=tuple(range(shape.taps))
    )
    return new_drafter(drafter_config(config, free), target, seed=1)


def _compiled(shape: Shape) -> Step:
    adamw = optimizers.AdamW(learning_rate=_RATE, weight_decay=0.0, bias_correction=True)
    step = TrainStep(_drafter(shape), Objective(), adamw)

    def run(batch: StepBatch) -> mx.array:
        sums, gradients = step.gradients(batch)
        mx.eval(sums, gradients)
        step.apply(gradients, sums["weight"], [_RATE])
        return sums["loss"] / sums["weight"]

    return run


def _plain(shape: Shape) -> Step:
    adamw = optimizers.AdamW(learning_rate=_RATE, weight_decay=0.0, bias_correction=True)
    return PlainStep(_drafter(shape), adamw).step


def _table(name: str, found: dict[str, Any]) -> Table:
    made = Table(title=f"{name}: {found['tokens_per_step']} tokens a step", title_justify="left")
    made.add_column("")
    for kind in found["peak_bytes"]:
        made.add_column(kind, justify="right")
    peaks = [f"{value / 1e6:.0f} MB" for value in found["peak_bytes"].values()]
    made.add_row("peak memory", *peaks)
    if "seconds_per_step" in found:
        seconds = found["seconds_per_step"].values()
        made.add_row("seconds per step", *(f"{median(values):.4f}" for values in seconds))
        made.add_row("compiled against plain", f"{found['times_faster']:.2f} times faster")
    return made


def _write(out: Path, results: dict[str, Any], rounds: int) -> None:
    document = {
        "name": "training-step",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv[1:],
        **provenance.origin(),
        "settings": {
            "rounds": rounds,
            "shapes": {name: asdict(SHAPES[name]) for name in results},
        },
        "results": results,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_json(out, document)
        _plot(results, out.with_suffix(".png"))
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error


def _plot(results: dict[str, Any], path: Path) -> None:
    """Peak memory and time per token, the plain step's as 1."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    compared = {name: found for name, found in results.items() if "times_faster" in found}
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, title, values in (
        (axes[0], "time per token", [1 / f["times_faster"] for f in compared.values()]),
        (axes[1], "peak memory", [f["peak_share"] for f in compared.values()]),
    ):
        axis.bar(list(compared), values, color="tab:blue")
        axis.axhline(1.0, color="black", linewidth=1)
        axis.set_title(f"{title}, plain step = 1")
    figure.savefig(path, dpi=110)
