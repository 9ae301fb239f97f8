"""A drafter of another trainer in the layout that the server reads: renamed, completed, checked.

Knows files and targets; `adapters.foreign` knows what other trainers call things.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from dflash_serve.adapters.base import AdapterError, TargetAdapter
from dflash_serve.adapters.checkpoint import read_config, read_object, resolve
from dflash_serve.adapters.dflash_config import parse_dflash_config
from dflash_serve.adapters.drafter_checkpoint import published, refuse_mask
from dflash_serve.adapters.drafter_tables import offsets
from dflash_serve.adapters.foreign import Given, detect, published_name
from dflash_serve.adapters.loading import check_pair, make_target, open_target
from dflash_serve.compose.directories import target_directory
from dflash_serve.training.drafter.layout import DTYPES, full_config, write_drafter
from dflash_serve.training.export.card import model_card
from dflash_serve.training.export.settings import ConvertSettings
from dflash_serve.training.export.sources import read_source

_COMPARED = ("embed_tokens.weight", "lm_head.weight")
"""Tables that may be copies of the target's or the drafter's own."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written. ``tables``: the drafter's own; ``left_out``: copies of the target's."""

    kind: str
    tensors: int
    dtype: str
    tables: tuple[str, ...]
    left_out: tuple[str, ...]


def convert_drafter(settings: ConvertSettings) -> Converted:
    """Read, rename, complete, check against the target, and write."""
    path = Path(settings.source).expanduser()
    source = path if path.is_file() else resolve(settings.source)
    raw = _config(settings.config, source)
    stored = read_source(source)
    kind, what = settings.kind or detect(raw, stored), f"drafter {settings.source}"
    target = _target(target_directory(settings.target), stored, what)
    found = published(kind, raw, stored, target, _given(settings), what)
    config = full_config(found.config)
    check_pair(parse_dflash_config(config), target)
    tensors = dict(found.tensors)
    if "target_ids" in tensors:
        tensors["d2t"] = offsets(tensors.pop("target_ids"))
    dtype = settings.dtype or _stored_dtype(tensors.values())
    card = model_card(settings.out.resolve().name, config, settings.target)
    write_drafter(settings.out, config, tensors, dtype, card)
    tables = tuple(name for name in (*_COMPARED, "d2t") if name in tensors)
    return Converted(kind, len(tensors), dtype, tables, found.left_out)


def _given(settings: ConvertSettings) -> Given:
    return Given(
        settings.block_size,
        settings.runtime_block_size,
        settings.target_layers,
        settings.mask_token,
    )


def _config(given: Path | None, source: Path) -> dict[str, Any]:
    directory = source.parent if source.is_file() else source
    refuse_mask(directory)
    if given is not None:
        return read_config(given) if given.is_dir() else read_object(given)
    if not (directory / "config.json").exists():
        raise AdapterError(f"{directory} has no config.json: give the drafter's with --config")
    return read_config(directory)


def _target(directory: Path, stored: Iterable[str], what: str) -> TargetAdapter:
    """The target, as far as its files go; with a config.json alone, a target of its sizes.

    Raises:
        AdapterError: the drafter has tables, and the target's are not there to compare.
    """
    if any(directory.glob("model*.safetensors")):
        return open_target(directory)
    tables = [name for name in stored if published_name(name) in _COMPARED]
    if tables:
        raise AdapterError(
            f"{what} stores {', '.join(tables)}, which may be copies of the target's or its own, "
            f"and {directory} has no weights to compare: give a --target with its weights"
        )
    return make_target(read_config(directory))


def _stored_dtype(tensors: Iterable[mx.array]) -> str:
    """The dtype of the first floating tensor, which is that of all in every known checkpoint."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    return next((names[one.dtype] for one in tensors if one.dtype in names), "float32")
