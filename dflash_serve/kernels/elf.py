"""Reads what an ELF shared library asks of others: the libraries it needs and its dynamic names.

Knows 64-bit little-endian files only and maps them instead of reading; knows nothing of BLAS.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ = 0, 1, 5, 10


@dataclass(frozen=True, slots=True)
class DynamicNames:
    needed: tuple[str, ...]
    strings: bytes  # the whole dynamic string table, names separated by NUL

    def mentions(self, symbol: str) -> bool:
        """Also true for a mere ending of a longer name: linkers store such endings only once."""
        return symbol.encode() + b"\0" in self.strings


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_dynamic_names(library: Path) -> DynamicNames:
    """Raises ValueError for anything but a 64-bit little-endian ELF file, OSError if unreadable."""
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
        try:
            return _parse(image)
        except struct.error as error:
            raise ValueError(f"{library} is cut short: {error}") from error


def _parse(image: mmap.mmap) -> DynamicNames:
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    segments = tuple(_segments(image))
    entries = [
        entry for part in segments if part.kind == _PT_DYNAMIC for entry in _tags(image, part)
    ]
    table = {tag: value for tag, value in entries if tag in (_DT_STRTAB, _DT_STRSZ)}
    if len(table) != 2:
        raise ValueError("no dynamic string table")
    start = _file_offset(segments, table[_DT_STRTAB])
    strings = image[start : start + table[_DT_STRSZ]]
    needed = (value for tag, value in entries if tag == _DT_NEEDED)
    return DynamicNames(tuple(_text_at(strings, value) for value in needed), strings)


def _segments(image: mmap.mmap) -> Iterator[_Segment]:
    (table,) = struct.unpack_from("<Q", image, 32)
    step, count = struct.unpack_from("<HH", image, 54)
    for index in range(count):
        kind, _, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", image, table + index * step
        )
        yield _Segment(kind, offset, address, size)


def _tags(image: mmap.mmap, dynamic: _Segment) -> Iterator[tuple[int, int]]:
    for position in range(dynamic.offset, dynamic.offset + dynamic.size, 16):
        tag, value = struct.unpack_from("<qQ", image, position)
        if tag == _DT_NULL:
            return
        yield tag, value


def _file_offset(segments: tuple[_Segment, ...], address: int) -> int:
    for part in segments:
        if part.kind == _PT_LOAD and part.address <= address < part.address + part.size:
            return part.offset + address - part.address
    raise ValueError(f"address {address:#x} is in no segment")


def _text_at(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode()
