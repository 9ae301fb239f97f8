"""The process that handles large request bodies: jobs in on its input, replies out on its output.

It imports what turns bodies into tokens, and nothing of engines or of MLX.
"""

import contextlib
import logging
import os
import pickle
import signal
import sys
import threading
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, Any

import psutil

from dflash_serve.server.errors import ApiError, internal
from dflash_serve.server.handling import Handler, Handling

_NICENESS = 5
"""Streams that run come before a body that is handled."""
_MEMORY = 512 * 2**20
"""Resident bytes beyond which a worker is replaced: what the largest bodies take is not given back
to the system."""


@dataclass(frozen=True, slots=True)
class Job:
    """A body, what handles it, and the engine's context, as `Handling` has it."""

    handler: Handler[Any]
    body: bytes
    room: int | None


@dataclass(frozen=True, slots=True)
class Question:
    """What a handler looks up of the things that the server keeps."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returned or raised. ``last``: the worker is to be replaced."""

    value: Any = None
    error: ApiError | None = None
    last: bool = False


def main() -> None:
    """Handle jobs until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the replies
    inbox: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read, args=(source, inbox), daemon=True).start()
    facts = inbox.get()

    def find(kind: str, name: str) -> Any:
        _write(sink, Question(kind, name))
        return inbox.get()

    while True:
        job: Job = inbox.get()
        _write(sink, _reply(job, Handling(facts, job.room, find)))


def _reply(job: Job, handling: Handling) -> Reply:
    value, failure = None, None
    try:
        value = job.handler(job.body, handling)
    except ApiError as error:
        failure = error
    except Exception:
        logging.getLogger("dflash_serve").exception("a request body could not be handled")
        failure = internal()
    large = psutil.Process().memory_info().rss > _MEMORY
    return Reply(value, failure, last=large)


def _read(source: IO[bytes], inbox: SimpleQueue[Any]) -> None:
    """Ends the process when the input ends, even in the middle of a job."""
    try:
        while True:
            inbox.put(pickle.load(source))
    except EOFError:
        os._exit(0)
    except BaseException:
        logging.getLogger("dflash_serve").exception("a worker's input cannot be read")
        os._exit(1)


def _write(sink: IO[bytes], message: object) -> None:
    try:
        pickle.dump(message, sink, protocol=pickle.HIGHEST_PROTOCOL)
        sink.flush()
    except BrokenPipeError:
        sys.exit(0)
