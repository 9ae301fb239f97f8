"""dflash-train convert: a drafter of another trainer into the layout that the server reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from rich.console import Console

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_config, read_object, resolve
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.drafter_checkpoint import MASK_EMBEDDING
from dflash_serve.adapters.foreign import (
    KINDS,
    TABLES,
    Given,
    detect,
    published_config,
    published_name,
    published_names,
)
from dflash_serve.adapters.loading import check_pair
from dflash_serve.compose.directories import target_directory
from dflash_serve.training.drafter.layout import DTYPES, full_config, write_drafter
from dflash_serve.training.export.card import model_card
from dflash_serve.training.export.sources import read_source


@dataclass(frozen=True, slots=True)
class _Sizes:
    """A target's sizes from its config.json alone."""

    hidden_size: int
    num_layers: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class ConvertJob:
    """``source`` is a file, a directory or a hub id; ``kind`` and ``dtype`` None are its own."""

    source: str
    target: str
    out: Path
    kind: str | None
    config: Path | None
    dtype: str | None
    given: Given


def convert(job: ConvertJob) -> None:
    """Read, rename, complete, check against the target, and write.

    Raises:
        AdapterError: something is missing, unknown, damaged, or made for another target.
    """
    if job.kind not in (None, *KINDS):
        raise AdapterError(f"kind {job.kind!r} is none of {', '.join(KINDS)}")
    console, path = Console(), Path(job.source).expanduser()
    source = path if path.is_file() else resolve(job.source)
    raw = _config(job, source)
    stored = read_source(source)
    weights, dropped = published_names(stored)
    kind = job.kind or detect(raw, stored)
    target = read_config(target_directory(job.target))
    dropped += [name for name in stored if published_name(name) in TABLES]
    weights = {name: value for name, value in weights.items() if name not in TABLES}
    config = full_config(published_config(kind, raw, weights, target, job.given))
    parsed = parse_dflash_config(config)
    if parsed.draft_vocab_size:
        raise AdapterError(
            f"draft_vocab_size is {parsed.draft_vocab_size}, vocab_size {parsed.vocab_size}: "
            "dflash-serve reads a reduced vocabulary as it is, z-lab's layout has none"
        )
    check_pair(parsed, _sizes(job.target, target))
    dtype = job.dtype or _stored_dtype(weights)
    card = model_card(job.out.resolve().name, config, job.target, None)
    write_drafter(job.out, config, weights, dtype, card)
    left_out = f"; left out, the target's own: {', '.join(dropped)}" if dropped else ""
    console.print(f"{kind} -> {job.out}: {len(weights)} tensors in {dtype}{left_out}")


def _config(job: ConvertJob, source: Path) -> dict[str, Any]:
    directory = source.parent if source.is_file() else source
    if (directory / MASK_EMBEDDING).exists():
        raise AdapterError(f"{directory} has a {MASK_EMBEDDING}, which is not supported")
    if job.config is None and not (directory / "config.json").exists():
        raise AdapterError(f"{directory} has no config.json: give the drafter's with --config")
    if job.config is None or job.config.is_dir():
        return read_config(job.config or directory)
    return read_object(job.config)


def _sizes(name: str, target: dict[str, Any]) -> _Sizes:
    def size(key: str) -> int:
        value = target.get(key)
        if type(value) is not int:
            raise AdapterError(f"target {name}: {key} is {value!r} in its config.json")
        return value

    return _Sizes(size("hidden_size"), size("num_hidden_layers"), size("vocab_size"))


def _stored_dtype(weights: dict[str, mx.array]) -> str:
    """The dtype of the first tensor, which is that of all in every known checkpoint."""
    dtype = next((value.dtype for value in weights.values()), mx.float32)
    return next((name for name, known in DTYPES.items() if known == dtype), "float32")
