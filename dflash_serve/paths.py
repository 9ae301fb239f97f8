"""What no file can be called, and what stands where a file should be.

Knows no options and no formats: who asks says whose name it is.
"""

import os
import stat
from pathlib import Path

_LONGEST, _LONGEST_NAME = 4095, 255
"""Bytes of a path and of each name in it: what Linux takes, and macOS takes no more."""
_SHOWN = 40
_KINDS = (
    (stat.S_ISREG, None),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def name_fault(path: str) -> str | None:
    """Why nothing can be called ``path``, or only by mistake: ``names cannot ...``; else None."""
    if control := next((one for one in path if ord(one) < 32), None):
        return f"names cannot have a {control!r}"
    if len(os.fsencode(path)) > _LONGEST:
        return f"names cannot have more than {_LONGEST} bytes"
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.split("/")):
        return f"names cannot have more than {_LONGEST_NAME} bytes between slashes"
    try:
        Path(path).expanduser()
    except RuntimeError:
        return "there is no such user"
    return None


def shown(text: str) -> str:
    """A value as messages show it: the beginning of one that is long, line breaks as ``\\n``."""
    told = repr(text)[1:-1] if any(ord(one) < 32 for one in text) else text
    return told if len(told) <= 2 * _SHOWN else f"{told[:_SHOWN]}... ({len(text)} characters)"


def not_a_file(path: Path) -> str | None:
    """What ``path`` is instead of a file, like ``a pipe``; None for a file, and for nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link that leads nowhere" if path.is_symlink() else None
    return next((kind for test, kind in _KINDS if test(mode)), "a device")
