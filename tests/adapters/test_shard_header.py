"""Headers of safetensors files: what is not as long, or not what it says, is refused by name."""

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.shard_header import StoredTensor, read_header

FILE = "model.safetensors"


def write(path: Path, header: Any, data: bytes) -> Path:
    """A file with a header of our own making."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), begin: int = 0, end: int = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_a_header_lists_what_mlx_saved(tmp_path: Path) -> None:
    path = tmp_path / FILE
    tensors = {"a": mx.zeros((2, 3), mx.bfloat16), "b": mx.zeros((5,), mx.uint32), "c": mx.ones(())}
    mx.save_safetensors(str(path), tensors, {"format": "mlx"})
    found = read_header(path)
    assert {name: tensor.nbytes for name, tensor in found.items()} == {"a": 12, "b": 20, "c": 4}
    assert (found["a"].dtype, found["a"].shape) == ("BF16", (2, 3))


def test_tensors_that_share_bytes_or_leave_a_gap_are_refused(tmp_path: Path) -> None:
    shared = write(tmp_path / FILE, {"a": entry(), "b": entry()}, bytes(8))
    with pytest.raises(AdapterError, match=r"its tensors take 16 bytes, their places 8$"):
        read_header(shared)
    gap = write(tmp_path / FILE, {"a": entry(), "b": entry(begin=12, end=20)}, bytes(20))
    with pytest.raises(AdapterError, match=r"its tensors take 16 bytes, their places 20$"):
        read_header(gap)


@pytest.mark.timeout(30)  # who reads a pipe that nobody writes to waits for ever
def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(AdapterError, match=f"{FILE} is a pipe, but must be a file$"):
        read_header(tmp_path / FILE)


def test_a_header_may_hold_nothing(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / FILE, {}, b"")) == {}
    empty = write(tmp_path / FILE, {"a": entry(shape=(0,), end=0)}, b"")
    assert read_header(empty) == {"a": StoredTensor("F32", (0,), 0, 0)}


BAD: dict[str, tuple[Any, bytes, tuple[str, ...]]] = {
    "one byte short": ({"a": entry()}, bytes(7), ("describes 77 bytes", "file has 76")),
    "one byte long": ({"a": entry()}, bytes(9), ("describes 77 bytes", "file has 78")),
    "no JSON": (b"{nonsense", b"", ("header cannot be read",)),
    "no text": (b"\xff\xfe\xfd\xfc", b"", ("header cannot be read",)),
    "a list": ([], b"", ("no JSON object",)),
    "without end": (b"[" * 100_000, b"", ("header cannot be read",)),
    "an entry of numbers": ({"a": 7}, b"", ("header's a is 7",)),
    "an entry without a place": ({"a": {"dtype": "F32", "shape": [2]}}, b"", ("header's a is",)),
    "a shape of text": ({"a": entry(shape="x")}, bytes(8), ("header's a is",)),
    "a dtype that there is not": ({"a": entry("F7")}, bytes(8), ("a has dtype F7",)),
    "a place of another size": (
        {"a": entry(shape=(3,))},
        bytes(8),
        ("a of shape [3]", "takes 12 bytes", "[0, 8)"),
    ),
    "a place before the file": ({"a": entry(begin=-8, end=0)}, b"", ("[-8, 0)",)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, name: str) -> None:
    header, data, named = BAD[name]
    path = write(tmp_path / FILE, header, data)
    with pytest.raises(AdapterError) as refused:
        read_header(path)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 500
    for part in (str(path), *named):
        assert part in message


@pytest.mark.parametrize("length", [0, 1, 100, 2**40, 2**63])
def test_a_length_that_the_file_cannot_have_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / FILE
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(AdapterError, match=rf"header has {length} bytes, the file 10$"):
        read_header(path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="nowhere"):
        read_header(tmp_path / "nowhere")
