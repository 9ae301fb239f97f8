"""Feature rows in safetensors shards: bounded, resumable, and bound to what they were made from.

Knows nothing of targets or batches. A shard appears whole or not at all.
"""

import fcntl
import hashlib
import json
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import read_object
from dflash_serve.adapters.shard_header import StoredTensor, read_header
from dflash_serve.atomic_files import flush, replace_json, replacing
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.data.origin import describe_changes

_SHARD_BYTES = 256 << 20
_TENSOR_OVERHEAD = 160  # bytes of a shard's header for one tensor, at most
_HEADER = 4096  # bytes of a shard besides: metadata and alignment
_DTYPES = {"F16": mx.float16, "BF16": mx.bfloat16}


@dataclass(frozen=True, slots=True)
class Features:
    """Hidden states of a target for a sequence of T tokens, or for S that are padded to T.

    taps: [T, K * H] or [S, T, K * H], the residual stream after each tapped layer. final: [.., H]
    after the final norm, which the target's head makes logits of; None where it was not asked for.
    """

    taps: mx.array
    final: mx.array | None

    @property
    def nbytes(self) -> int:
        return self.taps.nbytes + (self.final.nbytes if self.final is not None else 0)


def examples_digest(examples: Sequence[Example]) -> str:
    """Changes when a token or the order of the examples does. Loss masks do not matter here."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.length.to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(example.tokens, dtype=np.int32).tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor of ``path``, whose tensors' bytes begin at ``begin``."""

    path: Path
    begin: int
    tensor: StoredTensor

    def read(self) -> mx.array:
        start, count = self.begin + self.tensor.end - self.tensor.nbytes, self.tensor.nbytes // 2
        raw = np.fromfile(self.path, dtype=np.uint16, count=count, offset=start)
        return mx.array(raw.reshape(self.tensor.shape)).view(_DTYPES[self.tensor.dtype])


class FeatureFiles:
    """Rows by example index, in one directory; owns its shards and up to one shard in memory.

    Rows that no longer fit into ``max_bytes`` of files are not taken. ``lock`` is the descriptor
    that keeps others out, until `close` or as long as this object lives.
    """

    def __init__(self, directory: Path, max_bytes: int, shard_bytes: int, lock: int) -> None:
        self._unlock = weakref.finalize(self, os.close, lock)
        self._directory, self._max_bytes, self._shard_bytes = directory, max_bytes, shard_bytes
        self._places: dict[int, dict[str, _Place]] = {}
        self._pending: dict[int, Features] = {}
        self._used = 0  # bytes of shards on disk
        self._pending_bytes = 0
        self._next_shard = 0

    @classmethod
    def open(
        cls,
        directory: Path,
        made_from: Mapping[str, Any],
        max_bytes: int,
        *,
        shard_bytes: int = _SHARD_BYTES,
    ) -> "FeatureFiles":
        """The directory's rows so far. Torn shards are deleted; their rows come again.

        ``made_from``: what features depend on, kept beside them as features.json.

        Raises:
            DataError: the directory was made from something else, another run uses it, or it
                cannot be made.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{directory} cannot be made: {error}") from error
        files = cls(directory, max_bytes, min(shard_bytes, max_bytes), _lock(directory))
        try:
            _claim(directory, made_from)
            files._scan()
        except BaseException:
            files._unlock()
            raise
        return files

    def get(self, index: int) -> Features | None:
        """A row that was put, now or by an earlier run."""
        if index in self._pending:
            return self._pending[index]
        places = self._places.get(index)
        if places is None:
            return None
        final = places.get("final")
        return Features(places["taps"].read(), final.read() if final else None)

    def put(self, index: int, row: Features) -> None:
        """Take a row if there is room; it is on disk when its shard is full, or on `close`."""
        bytes_ = row.nbytes + 2 * _TENSOR_OVERHEAD
        if self._used + self._pending_bytes + bytes_ + _HEADER > self._max_bytes:
            return
        self._pending[index] = row
        self._pending_bytes += bytes_
        if self._pending_bytes >= self._shard_bytes:
            self._write_shard()

    def close(self) -> None:
        """Write the rows still in memory, and let others in."""
        try:
            if self._pending:
                self._write_shard()
        finally:
            self._unlock()

    def _write_shard(self) -> None:
        tensors = {
            f"{kind}.{index}": tensor
            for index, row in self._pending.items()
            for kind, tensor in (("taps", row.taps), ("final", row.final))
            if tensor is not None
        }
        path = self._directory / f"shard-{self._next_shard:05d}.safetensors"
        try:
            with replacing(path) as scratch:
                with scratch.open("wb") as file:
                    mx.save_safetensors(file, tensors)
                flush(scratch)  # or a power cut may leave the name without the bytes
        except OSError as error:
            raise DataError(str(error)) from error
        self._pending.clear()
        self._pending_bytes = 0
        self._add_shard(path)

    def _scan(self) -> None:
        for path in sorted(self._directory.glob("shard-*.safetensors")):
            if not self._add_shard(path):
                path.unlink()
        for path in self._directory.glob(".shard-*"):  # a killed run was writing it
            path.unlink()

    def _add_shard(self, path: Path) -> bool:
        places = _read_places(path)
        if not places:
            return False
        for name, place in places.items():
            kind, _, index = name.partition(".")
            self._places.setdefault(int(index), {})[kind] = place
        self._used += path.stat().st_size
        self._next_shard = max(self._next_shard, int(path.name[6:11]) + 1)
        return True


def _claim(directory: Path, made_from: Mapping[str, Any]) -> None:
    """Write features.json into a new directory, or find the same in an old one."""
    path, wanted = directory / "features.json", json.loads(json.dumps(made_from))
    if not path.exists():
        if any(directory.glob("shard-*")):
            raise DataError(f"{directory} holds shards that are not ours: choose another folder")
        replace_json(path, wanted)
    elif changed := describe_changes(read_object(path), wanted):
        raise DataError(
            f"{directory} holds features of another {changed}: delete it or choose another folder"
        )


def _lock(directory: Path) -> int:
    """Two runs would give different shards the same name, and each read the other's rows."""
    handle = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise DataError(f"{directory} is in use by another run: choose another folder") from error
    return handle


def _read_places(path: Path) -> dict[str, _Place]:
    """Where each tensor of a shard is; empty if the file is not whole or not ours."""
    try:
        tensors = read_header(path)
    except AdapterError:
        return {}
    if not tensors or any(tensor.dtype not in _DTYPES for tensor in tensors.values()):
        return {}
    begin = path.stat().st_size - max(tensor.end for tensor in tensors.values())
    return {name: _Place(path, begin, tensor) for name, tensor in tensors.items()}
