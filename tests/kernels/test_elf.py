"""What a shared library asks of others, read from its file."""

import sys
from pathlib import Path

import pytest

from dflash_serve.kernels.elf import read_dynamic_names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's format")


def running_library(name: str) -> Path:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in lines if name in line.split()[-1])


def test_reads_needed_libraries_and_symbols() -> None:
    names = read_dynamic_names(running_library("libm.so"))
    assert "libc.so.6" in names.needed
    assert names.mentions("cosf")
    assert not names.mentions("cos f")


@pytest.mark.parametrize("keep", [0, 5, 40, 100, 5000])
def test_a_damaged_file_is_a_value_error(tmp_path: Path, keep: int) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(running_library("libm.so").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"."):
        read_dynamic_names(damaged)


def test_another_kind_of_file_is_a_value_error(tmp_path: Path) -> None:
    other = tmp_path / "other.so"
    other.write_bytes(b"\xcf\xfa\xed\xfe" * 100)
    with pytest.raises(ValueError, match="not a 64-bit little-endian ELF file"):
        read_dynamic_names(other)
