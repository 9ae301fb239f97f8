"""How fast this machine is at what a run does: a few seconds' measurement on small random shapes.

Estimates: products of the target's own form, and steps of a scaled-down drafter.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from dflash_serve.adapters.dflash_config import DFlashConfig, parse_dflash_config
from dflash_serve.adapters.planned import PlannedWeights
from dflash_serve.adapters.verify_linear import use_own_products
from dflash_serve.training.drafter.initialise import DrafterShape, drafter_config
from dflash_serve.training.drafter.layout import stored_tensors
from dflash_serve.training.run.budget import step_operations
from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.trainer import TrainOptions
from dflash_serve.training.run.trial import Trial

_SIDE = 2048  # of the matrix that is multiplied, at most
_FORWARD_ROWS = 512
_ENOUGH = 0.3  # seconds of repeats
_STEPS = 6
_LENGTH = 256
_ANCHORS = 64
_SMALL = {"hidden_size": 512, "intermediate_size": 1536, "vocab_size": 16_384}


@dataclass(frozen=True, slots=True)
class Speed:
    """``round``: seconds per weight of a product with a batch's rows. ``forward``: seconds per
    weight and row of one with many. ``step``: operations per second of a training step."""

    round: float
    forward: float
    step: float


def measure_speed(
    settings: RunSettings, target: PlannedWeights, drafter: dict[str, Any], answer_batch: int
) -> Speed:
    """Measured now, with whatever else this machine is doing."""
    config = parse_dflash_config(drafter)
    layer, weights, width = _product(target, config)

    def product(rows: int) -> float:
        x = mx.random.normal((rows, width)).astype(getattr(mx, target.dtype))
        mx.eval(x)
        return _seconds(lambda: mx.eval(layer(x))) / weights

    return Speed(
        product(answer_batch), product(_FORWARD_ROWS) / _FORWARD_ROWS, _step(settings, config)
    )


def _product(target: PlannedWeights, config: DFlashConfig) -> tuple[Any, int, int]:
    """A matrix as the target's are held, its weights, and the width of its input."""
    width, height = (
        min(_SIDE, size // 64 * 64 or 64) for size in (config.hidden_size, config.intermediate_size)
    )
    model = nn.Sequential(nn.Linear(width, height, bias=False))
    model.set_dtype(getattr(mx, target.dtype))
    form = target.quantization
    if form is not None:
        nn.quantize(
            model, int(form["group_size"]), int(form["bits"]), mode=form.get("mode", "affine")
        )
        use_own_products(model)
    mx.eval(model.parameters())
    return model, width * height, width


def _seconds(run: Callable[[], None]) -> float:
    """Of the fastest of some calls: what else this machine does is not the run's."""
    run()
    taken: list[float] = []
    while sum(taken) < _ENOUGH:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _step(settings: RunSettings, config: DFlashConfig) -> float:
    """Operations per second, by the fastest of a few steps."""
    target = {
        "model_type": "qwen3",
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        **{key: min(value, int(getattr(config, key))) for key, value in _SMALL.items()},
    }
    small = drafter_config(target, DrafterShape(0, 2, config.block_size))
    options = TrainOptions(
        Horizon(steps=_STEPS),
        batch=1,
        anchors=_ANCHORS,
        gamma=1.0,
        muon=settings.muon,
        compute_dtype=settings.compute_dtype,
    )
    with TemporaryDirectory() as directory:
        trial = Trial(target, small, options, _LENGTH, Path(directory))
        seconds = min(trial.step(number) for number in range(_STEPS))
        trial.close()
    shapes = [tensor.shape for tensor in stored_tensors(small).values()]
    like = settings.model_copy(update={"batch": 1, "anchors": _ANCHORS})
    return step_operations(parse_dflash_config(small), shapes, like, _LENGTH) / seconds
