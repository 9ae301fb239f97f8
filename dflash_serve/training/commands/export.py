"""dflash-train export: a trained drafter, cut to a dtype, with all that other readers need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from rich.console import Console

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_config, read_shard, read_weights
from dflash_serve.training.drafter.layout import full_config, write_drafter
from dflash_serve.training.export.card import Measured, model_card
from dflash_serve.training.run.report import read_log

_STATE, _MASTERS = "arrays.safetensors", "masters."
"""What `training.checkpoint` and `Trainer.state` call the file and the float32 weights in it."""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """``source`` is a run's folder, its ``last``, or one of its ``checkpoints``."""

    source: Path
    out: Path
    dtype: str
    runtime_block_size: int | None
    target: str | None


def export(job: ExportJob) -> None:
    """Write ``job.source`` to ``job.out`` in z-lab's layout.

    Raises:
        AdapterError: the source is incomplete or damaged, or the destination cannot be written.
    """
    raw, weights, measured = _read(job.source)
    config = full_config(raw, job.runtime_block_size)
    card = model_card(job.out.resolve().name, config, job.target, measured)
    write_drafter(job.out, config, weights, job.dtype, card)
    Console().print(f"{job.source} -> {job.out}: {len(weights)} tensors in {job.dtype}")


def _read(source: Path) -> tuple[dict[str, Any], dict[str, mx.array], Measured | None]:
    """Config and weights of the source, and what its run measured of them."""
    if not source.is_dir():
        raise AdapterError(f"no directory {source}")
    if not (source / _STATE).exists():
        run = source.parent if source.name == "last" else source
        return read_config(source), read_weights(source), _measured(run, source)
    run = source.resolve().parent.parent
    masters = {
        name.removeprefix(_MASTERS): value
        for name, value in read_shard(source / _STATE).items()
        if name.startswith(_MASTERS)
    }
    config = run if (run / "config.json").exists() else run / "last"
    return read_config(config), masters, _measured(run, source)


def _measured(run: Path, source: Path) -> Measured | None:
    """The run's figure for exactly this source, if there is one.

    A resumed run may go another way than before, so the newest line counts, not the highest.
    """
    newest_first = [
        row for row in read_log(run / "log.jsonl") if "loss" in row or "tokens_per_round" in row
    ][::-1]
    if source.name == "last":
        newest_first = newest_first[:1]  # trained on since it was measured: it was not measured
    for row in newest_first:
        if "tokens_per_round" in row and _is_of(source, row):
            return Measured(row["step"], row["tokens_per_round"])
    return None


def _is_of(source: Path, row: dict[str, Any]) -> bool:
    """Whether a measurement is of a checkpoint's step, or else of the best drafter."""
    if source.name.startswith("step-"):
        return source.name == f"step-{row['step']:08d}"
    return source.name == "last" or bool(row["best"])
