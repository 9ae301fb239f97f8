"""This package's step, in a process of its own: our_worker.py FOLDER SHAPE.

Writes the weights and the batch that both workers compute with into FOLDER first.
"""

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dflash_serve  # noqa: F401  # puts its matmul under MLX, which must not be loaded yet

# isort: split
import mlx.core as mx
from mlx.utils import tree_flatten
from turns import seconds_of, serve

from dflash_serve.bench.training_step import (
    RATE,
    SHAPES,
    Shape,
    compiled_step,
    random_batch,
    random_drafter,
)
from dflash_serve.measure.results import blas
from dflash_serve.training.step.train_step import StepBatch, TrainStep


def write_inputs(folder: Path, shape: Shape, batch: StepBatch) -> TrainStep:
    """Both files that the other worker reads; the step whose weights they hold."""
    drafter = random_drafter(shape)
    model = drafter.model
    arrays = {f"drafter.{name}": value for name, value in tree_flatten(model.parameters())}
    arrays["embedding"] = drafter.embed_block(mx.arange(shape.vocab)[None])[0]
    names = ("taps", "anchors", "labels", "weights", "visible")
    mx.save_safetensors(
        str(folder / "inputs.safetensors"),
        arrays | {name: getattr(batch, name) for name in names},
    )
    sizes = ("hidden", "inner", "heads", "kv_heads", "head_dim", "taps", "layers")
    config: dict[str, Any] = {name: asdict(shape)[name] for name in sizes}
    config["mask_id"] = drafter.config.mask_token_id
    settings = {"config": config, "rate": RATE, "clip": 1.0}
    (folder / "settings.json").write_text(json.dumps(settings))
    return compiled_step(drafter)


def main(folder: Path, shape: Shape) -> None:
    batch = random_batch(shape)
    step = write_inputs(folder, shape, batch)

    def gradients(path: str) -> dict[str, float]:
        sums, found = step.gradients(batch)
        given = {name: value / sums["weight"] for name, value in tree_flatten(found)}
        mx.save_safetensors(path, given)
        loss = sums["loss"] / sums["weight"]
        return {"loss": loss.item(), "right": int(sums["right"].sum().item())}

    def once() -> float:
        sums, found = step.gradients(batch)
        step.apply(found, sums["weight"], [RATE])
        return (sums["loss"] / sums["weight"]).item()

    serve(
        {
            "gradients": gradients,
            "seconds": seconds_of(once),
            "loss": once,
            "peak": lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "version": lambda: {"mlx": mx.__version__, "blas": blas()},
        }
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), SHAPES[sys.argv[2]])
