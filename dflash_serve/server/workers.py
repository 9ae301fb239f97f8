"""The processes that handle large request bodies, seen from the server.

A worker is a child that this package starts itself, not one of `multiprocessing`: that would run
the program's main module once more. It ends when its input does, so with the server, however
that ends.
"""

import asyncio
import contextlib
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dflash_serve.server.errors import ApiError, internal
from dflash_serve.server.handling import Facts, Find
from dflash_serve.server.worker import Job, Question, Reply

_WORKERS = 2
_WAITING = 8
"""Bodies that wait for a worker: 64 MiB of the largest."""
_PATIENCE = 1.0
"""Seconds that a body goes on being handled for nobody. Ending the worker sooner would cost more:
its successor takes about as long to start."""
_RETRY_AFTER = "2"
_PROGRAM = "import sys; sys.path[:] = {path!r}; from dflash_serve.server.worker import main; main()"


class WorkerDied(Exception):
    """The process ended before it answered."""


class Workers:
    """At most ``count`` processes, which are started when they are needed and after they died.

    Lives on one event loop. ``waiting``: how many bodies may wait for their turn.
    """

    def __init__(self, facts: Facts, count: int = _WORKERS, waiting: int = _WAITING) -> None:
        known = pickle.dumps(facts)
        self._idle = [_Worker(known) for _ in range(count)]
        self._all = tuple(self._idle)
        self._bound = waiting
        self._waiting = 0
        self._turns = asyncio.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="body")

    def warm_up(self) -> None:
        """Start one process, which takes a second or two; returns at once."""
        self._threads.submit(self._idle[-1].start)

    def check_free(self) -> None:
        """
        Raises:
            ApiError: as many bodies wait as may.
        """
        if self._waiting >= self._bound:
            message = (
                f"{self._waiting} large request bodies wait to be handled, and the limit is "
                f"{self._bound}. Please try again later."
            )
            headers = {"Retry-After": _RETRY_AFTER}
            raise ApiError(503, message, kind="server_error", code="queue_full", headers=headers)

    async def run(self, job: Job, find: Find) -> Any:
        """What the job's handler returns; ``find`` answers its questions, on another thread.

        A caller that is cancelled gives its turn back, soon.

        Raises:
            ApiError: the handler refuses the body, too many others wait, or the process died.
        """
        self.check_free()
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        worker, loop = self._idle.pop(), asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, worker.exchange, job, find)
        work.add_done_callback(lambda done: self._give_back(worker, done))
        try:
            reply = await asyncio.shield(work)
        except asyncio.CancelledError:
            loop.call_later(_PATIENCE, lambda: None if work.done() else worker.kill())
            raise
        except WorkerDied as error:
            raise internal() from error
        if reply.error is not None:
            raise reply.error
        return reply.value

    def close(self) -> None:
        """End the processes now. What they work on fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.end()

    def _give_back(self, worker: "_Worker", done: "asyncio.Future[Reply]") -> None:
        done.cancelled() or done.exception()  # seen, whether or not somebody still waits
        self._idle.append(worker)
        self._turns.release()


class _Worker:
    """One process. ``facts``: pickled. Used by one thread at a time, but for `kill` and `end`."""

    def __init__(self, facts: bytes) -> None:
        self._facts = facts
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def start(self) -> subprocess.Popen[bytes]:
        """The running process; a new one if there is none. Does not wait until it is ready."""
        with self._starting:
            if self._process is None or self._process.poll() is not None:
                self.end()  # closes its pipes
                self._process = process = self._new()
                assert process.stdin is not None
                process.stdin.write(self._facts)
                process.stdin.flush()
            return self._process

    def _new(self) -> subprocess.Popen[bytes]:
        program = _PROGRAM.format(path=sys.path)
        return subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"},
            process_group=0,  # a terminal's Ctrl-C is the server's to handle
        )

    def exchange(self, job: Job, find: Find) -> Reply:
        """Send ``job`` and wait for the reply.

        Raises:
            WorkerDied: there will be none.
        """
        message: Any = None
        try:
            process = self.start()
            assert process.stdout is not None
            _send(process, job)
            while isinstance(message := pickle.load(process.stdout), Question):
                _send(process, find(message.kind, message.name))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise WorkerDied from error
        finally:
            if not isinstance(message, Reply):
                self.end()  # in the middle of a conversation
        assert isinstance(message, Reply)
        if message.last:
            self.end()
            self.start()
        return message

    def kill(self) -> None:
        """Let the process end; a thread in `exchange` sees it, and waits for it. Never blocks."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """End the process, whatever it does, and wait for that."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # of what was not yet sent
                pipe.close()


def _send(process: subprocess.Popen[bytes], message: object) -> None:
    assert process.stdin is not None
    pickle.dump(message, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()
