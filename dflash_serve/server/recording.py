"""Finished requests on disk, with the operator's consent: token ids and how drafting went.

JSON lines that `dflash-train adapt` reads, written by a thread of its own. Knows no text.
"""

import contextlib
import fcntl
import json
import logging
import os
import queue
import stat
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dflash_serve.compose.options import OptionsError
from dflash_serve.engine.types import EngineRequest, Usage

_log = logging.getLogger("dflash_serve.record")
_WAITING = 4096
"""Requests that may wait for the disk; more are left out rather than held in memory."""
_SEGMENTS = 8
"""Files that share the limit: when it is reached, the oldest of about so many goes."""
_CLOSE = 5.0
_PATTERN = f"records-{'[0-9]' * 8}-*.jsonl"


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice that ran to its end.

    ``tokens`` are all that were generated, a final stop token included. ``drafters`` names those
    that ran when it began and when it ended: one, unless they were swapped in between.
    """

    request: EngineRequest
    tokens: tuple[int, ...]
    finish: str
    usage: Usage
    drafters: tuple[str, ...]


class Recorder:
    """Keeps finished requests. ``add`` never blocks, fails or slows a request.

    When the disk refuses, recording stops with one line in the log, and serving goes on. Records
    of a killed process are whole but for at most the last line.
    """

    def __init__(self, segments: "Segments", prompts: bool) -> None:
        self._segments = segments
        self._prompts = prompts
        self._queue: queue.Queue[Finished | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._main, name="recorder", daemon=True)
        self._behind = False
        self._stopped = False

    @property
    def active(self) -> bool:
        """Whether finished requests are still being kept."""
        return self._thread.is_alive() and not self._stopped

    def start(self) -> None:
        self._thread.start()

    def add(self, finished: Finished) -> None:
        """Called on the event loop."""
        if self._stopped:
            return
        try:
            self._queue.put_nowait(finished)
        except queue.Full:
            if not self._behind:
                _log.warning("the disk is too slow: some requests are not recorded")
            self._behind = True

    def close(self) -> None:
        """Write what waits, for a few seconds at most."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_CLOSE)
        self._thread.join(_CLOSE)

    def _main(self) -> None:
        number = 0
        while (finished := self._queue.get()) is not None:
            if self._stopped:
                continue
            line = json.dumps(_row(number, finished, self._prompts), separators=(",", ":"))
            try:
                self._segments.write(line.encode() + b"\n")
            except OSError as error:
                self._stopped = True
                _log.error("recording has stopped, serving goes on: %s", error)
            number += 1
        self._segments.close()


def _row(number: int, finished: Finished, prompts: bool) -> dict[str, Any]:
    """One line. Without prompts no features can be computed: then only counts are of use."""
    usage, sampling = finished.usage, finished.request.sampling
    row: dict[str, Any] = {
        "row": number,
        "kind": "recorded",
        "time": round(time.time(), 3),
        "finish": finished.finish,
        "greedy": sampling.greedy,
        "prompt_tokens": usage.prompt_tokens,
        "answer_tokens": len(finished.tokens),
        "rounds": usage.rounds,
        "drafted": usage.drafted,
        "accepted": usage.accepted,
        "drafters": finished.drafters,
    }
    if not sampling.greedy:
        names = ("temperature", "top_p", "top_k", "min_p", "seed")
        row["sampling"] = {name: getattr(sampling, name) for name in names}
    if prompts:
        row |= {"prompt": finished.request.prompt, "answer": finished.tokens}
    return row


class Segments:
    """The record files of one directory, together at most ``limit`` bytes: the oldest make room.

    Every file begins with ``header``, so that each can be read alone. Files are readable by their
    owner only. Owner of the directory's lock and of the file that is being written.
    """

    def __init__(self, directory: Path, limit: int, header: Mapping[str, Any]) -> None:
        self._directory = directory
        self._limit = limit
        self._header = json.dumps(header, separators=(",", ":")).encode() + b"\n"
        self._lock = -1
        self._file = -1
        self._path = directory
        self._size = 0
        self._old: deque[tuple[Path, int]] = deque()  # oldest first, without the current one

    def open(self) -> None:
        """Make the directory and take it.

        Raises:
            OptionsError: it cannot be made, is open to others, or another server writes to it.
        """
        directory = self._directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = stat.S_IMODE(directory.stat().st_mode)
            if mode & 0o077:
                raise OptionsError(
                    f"--record {directory} is open to others (mode {mode:o}): chmod 700 it first"
                )
            self._lock = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = sorted(directory.glob(_PATTERN))
            self._old = deque((path, path.stat().st_size) for path in found)
        except BlockingIOError as error:
            raise OptionsError(f"--record {directory}: another server writes there") from error
        except OSError as error:
            raise OptionsError(f"--record {directory}: {error.strerror}") from error

    def write(self, line: bytes) -> None:
        """Append one line, in one piece.

        Raises:
            OSError: the disk refuses; the file ends with its last whole line.
        """
        if len(self._header) + len(line) > self._limit:
            return
        if self._file < 0 or self._size + len(line) > self._limit // _SEGMENTS:
            self._next()
        self._make_room(len(line))
        self._append(line)

    def close(self) -> None:
        for file in (self._file, self._lock):
            if file >= 0:
                os.close(file)
        self._file = self._lock = -1

    def _next(self) -> None:
        """Begin a file whose name sorts behind all others."""
        if self._file >= 0:
            os.close(self._file)
            self._old.append((self._path, self._size))
            self._file = -1
        number = 1 + (int(self._old[-1][0].name.split("-")[1]) if self._old else 0)
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self._path, self._size = self._directory / f"records-{number:08d}-{stamp}.jsonl", 0
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
        self._file = os.open(self._path, flags, 0o600)
        self._make_room(len(self._header))
        self._append(self._header)

    def _make_room(self, more: int) -> None:
        used = self._size + sum(size for _, size in self._old)
        while self._old and used + more > self._limit:
            path, size = self._old.popleft()
            path.unlink(missing_ok=True)
            used -= size

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"only {written} of {len(line)} bytes fit on the disk")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)
