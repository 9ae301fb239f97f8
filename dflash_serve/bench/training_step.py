"""Times the compiled training step against the same step written plainly, and weighs both.

Random weights and features, no target in the step: what is measured is the step alone.
"""

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
import psutil
from matplotlib.figure import Figure
from mlx import optimizers
from rich.table import Table

from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import make_target
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import TrainingStepOptions
from dflash_serve.bench.plain_step import PlainStep
from dflash_serve.bench.report import bars, picture, table_of
from dflash_serve.bench.turns import timed
from dflash_serve.kernels.updates import AdamW
from dflash_serve.measure.results import Result
from dflash_serve.training.data.example import Example
from dflash_serve.training.drafter.initialise import DrafterShape, drafter_config, new_drafter
from dflash_serve.training.step.blocks import BlockRecipe, make_blocks
from dflash_serve.training.step.objective import Objective
from dflash_serve.training.step.train_step import StepBatch, TrainStep

Step = Callable[[StepBatch], mx.array]
RATE = 1e-4
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
    "half": Shape(1024, 3072, 16, 8, 128, 32_000, 5, 5, 1, 512, 32, 16, steps=1),
    "large": Shape(128, 256, 2, 1, 64, 151_936, 5, 1, 1, 1024, 512, 16, steps=1, plain=False),
}
"""The embedded pair's size with many blocks, few, and the published recipe's; a middling one;
that of a target of half a billion weights over a part of its vocabulary; a large vocabulary."""


def run(options: TrainingStepOptions) -> Result:
    """Peak memory of both steps, seconds of each in turns, and the compiled one's growth.

    Raises:
        BenchError: a shape's name is unknown.
    """
    unknown = [name for name in options.shapes if name not in SHAPES]
    if unknown:
        raise BenchError(f"--only names {unknown[0]!r}, but must be of {', '.join(SHAPES)}")
    measured = {name: _measure(SHAPES[name], options.rounds) for name in options.shapes}
    shapes = {name: asdict(SHAPES[name]) for name in options.shapes}
    return Result("training-step", options.recorded() | {"shapes": shapes}, measured)


def _measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Peak memory of each step by itself, then time in turns, then growth over many steps."""
    batch = random_batch(shape)
    kinds = {"compiled": _compiled, **({"plain": _plain} if shape.plain else {})}
    found: dict[str, Any] = {
        "tokens_per_step": int(np.count_nonzero(np.array(batch.weights))),
        "logit_bytes": shape.logit_bytes,
        "peak_bytes": {kind: _peak(make(shape), batch) for kind, make in kinds.items()},
    }
    if not shape.plain:
        return found
    steps = {kind: make(shape) for kind, make in kinds.items()}
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

    def several(step: Step) -> None:
        for _ in range(count):
            step(batch)

    taken = timed([partial(several, step) for step in steps.values()], rounds)
    return {kind: [own / count for own in each] for kind, each in zip(steps, taken, strict=True)}


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


def random_batch(shape: Shape) -> StepBatch:
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


def random_drafter(shape: Shape) -> DFlashDrafter:
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


def compiled_step(drafter: DFlashDrafter) -> TrainStep:
    """The trainer's step with AdamW."""
    return TrainStep(drafter, Objective(), AdamW(RATE))


def _compiled(shape: Shape) -> Step:
    step = compiled_step(random_drafter(shape))

    def run(batch: StepBatch) -> mx.array:
        sums, gradients = step.gradients(batch)
        mx.eval(sums, gradients)
        step.apply(gradients, sums["weight"], [RATE])
        return sums["loss"] / sums["weight"]

    return run


def _plain(shape: Shape) -> Step:
    adamw = optimizers.AdamW(learning_rate=RATE, weight_decay=0.0, bias_correction=True)
    return PlainStep(random_drafter(shape), adamw).step


def tables(result: Result) -> list[Table]:
    rows = []
    for name, found in result.measured.items():
        seconds, peaks = found.get("seconds_per_step", {}), found["peak_bytes"]
        rows.append(
            {"shape": name, "times_faster": None}
            | found
            | {f"{kind}_s": median(seconds[kind]) if seconds else None for kind in _KINDS}
            | {f"{kind}_bytes": peaks.get(kind) for kind in _KINDS}
        )
    columns = "shape tokens_per_step compiled_s plain_s times_faster compiled_bytes plain_bytes"
    return [table_of("one training step, and the most memory that it took", rows, columns)]


_KINDS = ("compiled", "plain")


def plot(result: Result) -> Figure:
    """Time per token and peak memory, the plain step's as 1."""
    compared = [
        {"shape": name, "time_per_token": 1 / found["times_faster"], **found}
        for name, found in result.measured.items()
        if "times_faster" in found
    ]
    title = "the compiled step, plain step = 1"
    return picture(bars(title, compared, "shape", "time_per_token peak_share", limit=1.0))
