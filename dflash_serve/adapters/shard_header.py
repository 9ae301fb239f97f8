"""The header of a safetensors file: what the file must hold, checked without reading tensors."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from dflash_serve.adapters.base import AdapterError
from dflash_serve.paths import not_a_file

_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes of one element, by the format's name of the dtype."""
_LONGEST = 100_000_000
"""Bytes of a header, by the format."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file. ``end``: of its bytes, from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    end: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file, by name.

    Raises:
        AdapterError: it is no file, its header makes no sense, or it is not as long as that says.
    """
    if kind := not_a_file(path):
        raise AdapterError(f"{path} is {kind}, but must be a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST):
                raise AdapterError(
                    f"{path} is damaged: its header has {length} bytes, the file {size}"
                )
            entries = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is damaged: its header cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise AdapterError(f"{path} is damaged: its header is no JSON object")
    tensors = {
        name: _tensor(path, name, entry)
        for name, entry in entries.items()
        if name != "__metadata__"
    }
    wanted = 8 + length + max((tensor.end for tensor in tensors.values()), default=0)
    if size != wanted:
        raise AdapterError(
            f"{path} is damaged: its header describes {wanted} bytes, the file has {size}"
        )
    held = sum(tensor.nbytes for tensor in tensors.values())
    if 8 + length + held != wanted:
        raise AdapterError(
            f"{path} is damaged: its tensors take {held} bytes, their places {wanted - 8 - length}"
        )
    return tensors


def _tensor(path: Path, name: str, entry: Any) -> StoredTensor:
    """One entry, whose place must be as long as its shape says."""
    try:
        dtype, shape = str(entry["dtype"]), tuple(map(int, entry["shape"]))
        begin, end = map(int, entry["data_offsets"])
    except (LookupError, TypeError, ValueError) as error:
        raise AdapterError(f"{path} is damaged: its header's {name} is {entry!r:.200}") from error
    if dtype not in _BYTES:
        raise AdapterError(f"{path}: {name} has dtype {dtype}, which is not supported")
    wanted = prod(shape) * _BYTES[dtype]
    if begin < 0 or end - begin != wanted:
        raise AdapterError(
            f"{path} is damaged: {name} of shape {list(shape)} and dtype {dtype} takes {wanted} "
            f"bytes, its place is [{begin}, {end})"
        )
    return StoredTensor(dtype, shape, wanted, end)
