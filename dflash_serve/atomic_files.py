"""Files that are replaced whole or not at all. Knows nothing of what is in them."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A scratch file in the same directory, which takes ``path``'s name if the block succeeds.

    Raises:
        OSError: the old file, if any, is still whole.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        scratch.chmod(0o644)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all.

    Raises:
        OSError: the old file, if any, is still whole.
    """
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def replace_json(path: Path, value: Any) -> None:
    """`replace_text` with ``value`` as JSON for people to read.

    Raises:
        OSError: the old file, if any, is still whole.
    """
    replace_text(path, json.dumps(value, indent=1) + "\n")
