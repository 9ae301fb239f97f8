"""Files that are replaced, and lines that are appended, whole or not at all.

Knows nothing of what is in them.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


class WriteError(OSError):
    """A file that cannot be written: ``filename`` is the one that was wanted."""

    def __init__(self, path: Path | str, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))

    def __str__(self) -> str:
        return f"{self.filename} cannot be written: {self.strerror}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file in the same directory, which takes ``path``'s name if the block succeeds.

    Raises:
        WriteError: the disk refuses; the old file, if any, is still whole.
    """
    scratch = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        scratch = Path(name)
        yield scratch
        scratch.chmod(0o644)
        os.replace(scratch, path)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        WriteError: the old file, if any, is still whole.
    """
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def replace_json(path: Path, value: Any) -> None:
    """`replace_text` with ``value`` as JSON for people to read.

    Raises:
        WriteError: the old file, if any, is still whole.
    """
    replace_text(path, json.dumps(value, indent=1) + "\n")


def append_text(file: IO[str], text: str) -> None:
    """Write ``text`` behind what a file that is open for appending holds, and flush it.

    Raises:
        WriteError: the file holds what it held before, and is closed.
    """
    held = os.fstat(file.fileno()).st_size
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # it would write the rest again, and hide this error
            file.close()
        with contextlib.suppress(OSError):
            os.truncate(file.name, held)
        raise WriteError(file.name, error) from error


def flush(*paths: Path) -> None:
    """Make what was written to files, or renamed in folders, outlive a power cut."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
