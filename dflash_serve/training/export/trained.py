"""What a run trained, from its folder into one that servers read: cut to a dtype, with a card."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_config, read_shard, read_weights
from dflash_serve.training.drafter.layout import full_config, write_drafter
from dflash_serve.training.export.card import model_card
from dflash_serve.training.export.settings import ExportSettings
from dflash_serve.training.run.record import RunRecord, Worth, read_record
from dflash_serve.training.run.report import read_log

_STATE, _MASTERS = "arrays.safetensors", "masters."
"""What `run.checkpoint` and `Trainer.state` call the file and the float32 weights in it."""
_LOG = "log.jsonl"
_FIGURES = "reported"
"""What a line of `run.report` calls the figures on the answers that did not choose the drafter."""


def export_drafter(settings: ExportSettings) -> int:
    """Write what is in ``settings.source`` in z-lab's layout; how many tensors.

    Raises:
        AdapterError: the source is incomplete or damaged, or the destination cannot be written.
        DataError: the run's record is damaged.
    """
    source, out = settings.source, settings.out
    if not source.is_dir():
        raise AdapterError(f"no directory {source}")
    run = _run_folder(source)
    raw, weights = _drafter(source, run)
    config, record = full_config(raw, settings.runtime_block_size), read_record(run)
    card = model_card(
        settings.hf_repo or out.resolve().name,
        config,
        settings.target or (record.target if record else None),
        _worth(run, source, record),
        record.trained_on if record else None,
    )
    write_drafter(out, config, weights, settings.dtype, card)
    return len(weights)


def _run_folder(source: Path) -> Path:
    if (source / _STATE).exists():
        return source.resolve().parent.parent
    return source.resolve().parent if source.name == "last" else source


def _drafter(source: Path, run: Path) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """Config and weights; of a checkpoint the float32 ones, with the config beside the run."""
    if not (source / _STATE).exists():
        return read_config(source), read_weights(source)
    masters = {
        name.removeprefix(_MASTERS): value
        for name, value in read_shard(source / _STATE).items()
        if name.startswith(_MASTERS)
    }
    return read_config(run if (run / "config.json").exists() else run / "last"), masters


def _worth(run: Path, source: Path, record: RunRecord | None) -> Worth | None:
    """What the run reported of exactly this source, None if it did not.

    A resumed run may go another way than before, so the newest line counts, not the highest.
    """
    if record is None or record.reported is None:
        return None
    if not (run / _LOG).exists():  # what adapt wrote: one drafter, and its figures
        return record.reported
    lines = [row for row in read_log(run / _LOG) if "loss" in row or _measures(row)]
    if source.name == "last":
        lines = lines[-1:]  # trained on since it was measured: it was not measured
    row = next((row for row in reversed(lines) if _measures(row) and _is_of(source, row)), None)
    if row is None:
        return None
    known = record.reported.model_dump() | {"tokens_per_round_interval": None}
    return Worth.model_validate(known | {"step": row["step"], **row[_FIGURES]})


def _measures(row: dict[str, Any]) -> bool:
    return "tokens_per_round" in row and _FIGURES in row


def _is_of(source: Path, row: dict[str, Any]) -> bool:
    """Whether a measurement is of a checkpoint's step, or else of the best drafter."""
    if source.name.startswith("step-"):
        return source.name == f"step-{row['step']:08d}"
    return source.name == "last" or bool(row["best"])
