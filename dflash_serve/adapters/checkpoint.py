"""Directories in Hugging Face layout: names to paths, config.json, safetensors shards.

Every failure is an `AdapterError` of one line. Knows nothing of model families.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import mlx.core as mx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.shard_header import read_header
from dflash_serve.paths import not_a_file

_LARGEST = 32 << 20
"""Bytes of a JSON file that describes a checkpoint; those that exist have a hundredth."""
_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
CONFIG = "config.json"


def resolve(name: str, files: Sequence[str] = _PATTERNS) -> Path:
    """A local directory as it is, or a hub id as its downloaded (or cached) snapshot of ``files``.

    Anything that looks like a path (absolute, or starting with ``.`` or ``~``) or exists on disk
    never touches the network.
    """
    path = _expanded(name)
    if path.is_dir():
        _check_regular(path, files)
        return path
    if path.exists():
        raise AdapterError(f"{name} is a file, but a checkpoint is a directory")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise AdapterError(f"no directory {name} (a hub id would be OWNER/NAME)")
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except LocalEntryNotFoundError as error:
        raise AdapterError(f"{name} is not cached and the hub cannot be reached") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise AdapterError(f"cannot get {name} from the hub: {first_line}") from error


def _check_regular(directory: Path, patterns: Sequence[str]) -> None:
    """Refuse what is not a file: reading a pipe or a device may never come to an end."""
    try:
        found = sorted(directory.iterdir())
    except OSError as error:
        raise AdapterError(f"{directory} cannot be listed: {error.strerror}") from error
    for path in found:
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            _check_file(path)


def _check_file(path: Path) -> None:
    if kind := not_a_file(path):
        raise AdapterError(f"{path} is {kind}, but must be a file")


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise AdapterError(f"no directory {name}: no such user") from error


def read_config(directory: Path) -> dict[str, Any]:
    """``config.json`` as a dictionary."""
    path = directory / "config.json"
    if not path.exists():
        raise AdapterError(f"{directory} has no config.json")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object."""
    _check_file(path)
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise AdapterError(f"{path} has {size} bytes, but must have at most {_LARGEST}")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path} is not a JSON object")
    return config


def read_generation_config(directory: Path) -> dict[str, Any]:
    """``generation_config.json`` as a dictionary, empty where there is none."""
    path = directory / "generation_config.json"
    return read_object(path) if path.exists() else {}


def stop_token_ids(directory: Path) -> frozenset[int]:
    """Every token that ends an answer: those of both configs."""
    configs = {
        "generation_config.json": read_generation_config(directory),
        "config.json": read_config(directory),
    }
    ids: frozenset[int] = frozenset()
    for name, config in configs.items():
        ids |= _ids(config.get("eos_token_id"), directory / name)
    return ids


def fingerprint(directory: Path) -> str:
    """Changes when a checkpoint does: its config, and size and both ends of each shard."""
    digest = hashlib.sha256((directory / "config.json").read_bytes())
    for path in sorted(directory.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16]


def shard_paths(directory: Path) -> list[Path]:
    """All safetensors files of a checkpoint; those its index names must hold what it says."""
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        found = sorted(directory.glob("model*.safetensors"))
        if not found:
            raise AdapterError(f"{directory} has no model*.safetensors")
        return found
    placed = _placed(index)
    missing = [name for name in sorted(placed) if not (directory / name).is_file()]
    if missing:
        raise AdapterError(f"{directory} lacks {len(missing)} shard(s): {', '.join(missing)}")
    for file, names in sorted(placed.items()):
        absent = sorted(names - read_header(directory / file).keys())
        if absent:
            raise AdapterError(
                f"{directory / file} lacks {len(absent)} tensor(s) that {index.name} places "
                f"there, first {absent[0]}"
            )
    return [directory / name for name in sorted(placed)]


def _placed(index: Path) -> dict[str, set[str]]:
    """File name -> names of the tensors that an index places in it."""
    placed: dict[str, set[str]] = {}
    try:
        for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items():
            placed.setdefault(str(file), set()).add(name)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise AdapterError(f"{index} cannot be read: {error!r}") from error
    if not placed:
        raise AdapterError(f"{index} names no shards")
    return placed


def read_weights(directory: Path) -> dict[str, mx.array]:
    """All tensors of all shards, by name.

    Raises:
        AdapterError: a shard is damaged or incomplete; the message names the file.
    """
    weights: dict[str, mx.array] = {}
    for path in shard_paths(directory):
        weights.update(read_shard(path))
    return weights


def read_shard(path: Path) -> dict[str, mx.array]:
    """The tensors of one safetensors file, evaluated."""
    tensors = open_shard(path)
    try:
        mx.eval(tensors)
    except RuntimeError as error:
        raise AdapterError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    return tensors


def open_shard(path: Path) -> dict[str, mx.array]:
    """The tensors of one safetensors file, not read yet.

    Raises:
        AdapterError: the file is not as long as its header says, or holds what MLX cannot.
    """
    read_header(path)
    try:
        tensors = mx.load(str(path), format="safetensors")
    except (RuntimeError, ValueError, OSError) as error:
        raise AdapterError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    assert isinstance(tensors, dict)
    return tensors


def check_names(
    given: Mapping[str, mx.array],
    wanted: Mapping[str, mx.array],
    what: str,
    place: Callable[[str], object] | None = None,
) -> None:
    """Exactly the wanted names, each in its wanted shape. ``place``: the file of a given tensor.

    Raises:
        AdapterError: naming the first missing, unexpected or misshapen tensor.
    """
    missing = sorted(wanted.keys() - given.keys())
    extra = sorted(given.keys() - wanted.keys())
    where = place or (lambda name: what)
    if missing:
        raise AdapterError(f"{what} lacks {len(missing)} tensor(s), first {missing[0]}")
    if extra:
        raise AdapterError(
            f"{where(extra[0])} has {len(extra)} unexpected tensor(s), first {extra[0]}"
        )
    for name, tensor in wanted.items():
        if given[name].shape != tensor.shape:
            raise AdapterError(
                f"{where(name)}: {name} has shape {list(given[name].shape)}, "
                f"but its config says {list(tensor.shape)}"
            )


def _ids(value: Any, path: Path) -> frozenset[int]:
    """The tokens of an ``eos_token_id``: one, a list of them, or none."""
    found = [] if value is None else value if isinstance(value, list) else [value]
    if any(type(token) is not int for token in found):
        raise AdapterError(
            f"{path}: eos_token_id is {value!r:.80}, but must be an integer or a list of integers"
        )
    return frozenset(found)
