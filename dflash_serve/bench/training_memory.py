"""Memory and seconds of a training step at the true shapes of published pairs, on random weights.

The step is that of `dflash-train run`, with features from disk. Where a drafter of all its layers
has no room, one and two layers are measured: each further one adds the same bytes.
"""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import mlx.core as mx
from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.adapters.cpu_weights import available_memory
from dflash_serve.adapters.dflash_config import default_layer_ids
from dflash_serve.adapters.loading import on_cpu
from dflash_serve.adapters.planned import planned_weights
from dflash_serve.adapters.target_config import text_config
from dflash_serve.bench.errors import BenchError
from dflash_serve.bench.options import TrainingMemoryOptions
from dflash_serve.bench.report import Column, bars, picture, table_of
from dflash_serve.bench.shape_configs import TRAINED
from dflash_serve.measure.results import Result
from dflash_serve.training.drafter.initialise import DrafterShape, drafter_config
from dflash_serve.training.run.budget import step_bytes
from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.trainer import TrainOptions
from dflash_serve.training.run.trial import Trial
from dflash_serve.training.step.blocks import default_gamma

_STEPS = 2
"""The first one compiles; the second one finds what the first has left."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A target's config, and the layers and block of its published drafter."""

    name: str
    target: dict[str, Any]
    layers: int
    block: int

    def drafter(self, layers: int) -> dict[str, Any]:
        """The config that a run makes, of so many layers, with the taps of the published one."""
        text = text_config(self.target)
        taps = default_layer_ids(int(text["num_hidden_layers"]), self.layers)
        shape = DrafterShape(0, layers, self.block, target_layer_ids=taps)
        return drafter_config(text, shape)

    def table_bytes(self) -> int:
        """The target's embedding and head, which are all of it that a step reads."""
        text, size = text_config(self.target), 4 if on_cpu() else 2
        tables = 1 if text.get("tie_word_embeddings") else 2
        return tables * size * int(text["vocab_size"]) * int(text["hidden_size"])


def run(
    given: TrainingMemoryOptions,
    trained: Mapping[str, tuple[dict[str, Any], int, int]] = MappingProxyType(TRAINED),
) -> Result:
    """Measure the named pairs of ``trained`` one after another.

    Raises:
        BenchError: a name is unknown, or not even a drafter of one layer has room.
    """
    for name in given.pairs:
        if name not in trained:
            raise BenchError(f"--only names {name!r}, which is none of {', '.join(trained)}")
    measured = {name: _pair(_Pair(name, *trained[name]), given) for name in given.pairs}
    return Result("training-memory", given.recorded(), measured)


def _pair(pair: _Pair, given: TrainingMemoryOptions) -> dict[str, Any]:
    settings = _settings(given, pair)
    room = min(given.memory_gb * 1e9, available_memory()) if given.memory_gb else available_memory()
    planned = {count: _planned(pair, count, settings, given) for count in (1, 2, pair.layers)}
    counts = [count for count in (1, 2) if planned[count] <= room]
    if planned[pair.layers] <= room:
        counts = [pair.layers]
    if not counts:
        raise BenchError(
            f"{pair.name}: a step of one layer takes about {planned[1]} bytes, but {room:.0f} are "
            "available"
        )
    steps = {count: _measure(pair, count, settings, given) for count in counts}
    return {
        "layers": pair.layers,
        "block_size": pair.block,
        "table_bytes": pair.table_bytes(),
        "target_bytes": planned_weights(pair.target, pair.name).stored,
        "planned_bytes": planned[pair.layers],
        "steps": {str(count): found for count, found in steps.items()},
        "peak_bytes": _peak(pair, {count: found["peak_bytes"] for count, found in steps.items()}),
    }


def _peak(pair: _Pair, peaks: dict[int, int]) -> int | None:
    """Of a drafter of all layers: measured, or by the bytes that a second layer adds."""
    if pair.layers in peaks:
        return peaks[pair.layers]
    if len(peaks) < 2:
        return None
    return peaks[1] + (pair.layers - 1) * (peaks[2] - peaks[1])


def _settings(given: TrainingMemoryOptions, pair: _Pair) -> RunSettings:
    return RunSettings.model_validate(
        {
            "target": pair.name,
            "data": "answers.jsonl",
            "out": "drafter",
            "block_size": pair.block,
            "batch": 1,
            "anchors": given.anchors,
            "muon": given.muon,
            "compute_dtype": given.compute_dtype,
        }
    )


def _planned(pair: _Pair, layers: int, settings: RunSettings, given: TrainingMemoryOptions) -> int:
    """What `dflash-train plan` says of such a step, embedding and head included."""
    step = step_bytes(pair.drafter(layers), settings, given.length)
    return sum(step.values()) + pair.table_bytes()


def _measure(
    pair: _Pair, layers: int, settings: RunSettings, given: TrainingMemoryOptions
) -> dict[str, Any]:
    """Peak and seconds of steps, one sequence in each, on a drafter of so many layers."""
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    options = TrainOptions(
        Horizon(steps=_STEPS),
        batch=1,
        anchors=given.anchors,
        gamma=default_gamma(pair.block),
        muon=settings.muon,
        compute_dtype=settings.compute_dtype,
    )
    with TemporaryDirectory() as folder:
        trial = Trial(pair.target, pair.drafter(layers), options, given.length, Path(folder))
        held = mx.get_active_memory() - before
        mx.reset_peak_memory()
        seconds = [trial.step(number) for number in range(_STEPS)]
        trial.close()
    return {
        "parameters": trial.parameters,
        "held_bytes": held,
        "peak_bytes": mx.get_peak_memory() - before,
        "planned_bytes": _planned(pair, layers, settings, given),
        "seconds": seconds,
    }


def tables(result: Result) -> list[Table]:
    pairs = [{"pair": name} | found for name, found in result.measured.items()]
    sizes = [(f"{kind} GB", _gigabytes(kind)) for kind in ("held", "peak", "planned")]
    last: Column = ("step s", lambda step: step["seconds"][-1])
    columns = ["pair", "layers", "parameters", *sizes, last]
    title = "the published drafter's step, without the rest of the target"
    return [
        table_of("one step on one sequence", _steps(result), columns),
        table_of(title, pairs, ["pair", "layers", *sizes[1:], ("how", _how)]),
    ]


def _steps(result: Result) -> list[dict[str, Any]]:
    return [
        {"pair": name, "layers": layers, **step}
        for name, found in result.measured.items()
        for layers, step in found["steps"].items()
    ]


def _gigabytes(kind: str) -> Callable[[Any], float | None]:
    return lambda entry: entry[f"{kind}_bytes"] and entry[f"{kind}_bytes"] / 1e9


def _how(pair: dict[str, Any]) -> str:
    return "measured" if str(pair["layers"]) in pair["steps"] else "from one and two layers"


def plot(result: Result) -> Figure:
    """Peaks as measured and as planned."""
    sizes = [(kind, _gigabytes(kind)) for kind in ("peak", "planned")]

    def name(step: dict[str, Any]) -> str:
        return f"{step['pair']}, {step['layers']} layers"

    return picture(bars("GB", _steps(result), name, sizes), width=7)
