"""Running the HTTP server: bind, load beside it, drain on a signal or a failure, exit code.

Knows the engine only as something that loads, fails and closes.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from dflash_serve.compose.options import OptionsError
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.server.connection import MOST_BEYOND, Connection, ConnectionLimits
from dflash_serve.server.gates.names import listens_on_loopback
from dflash_serve.server.settings import Settings

_log = logging.getLogger("dflash_serve")
_LINGER = 0.3
"""Seconds that connections get to send their last bytes after the last request has ended."""
_POLL = 0.02
_IDLE = 75
"""Seconds that a connection may be idle between requests: longer than clients and proxies reuse
one (60 at most), so that none sends a request into a connection that is being closed."""
_SEND_BUFFER = 2**18
"""Bytes that the kernel takes for a client beyond what it reads. Without a bound they are millions,
and a slow client is not told from one that reads nothing."""
_OWN_FILES = 128
"""Open files of the process that are not connections, with room."""
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

NOT_STARTED = 2
"""Exit code of a server that could not start."""
ENGINE_FAILED = 3
"""Exit code of a server that served, until its engine failed."""

Reload = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the server ends by itself, in one line, and the exit code."""

    reason: str
    code: int

    @classmethod
    def of(cls, error: BaseException, code: int) -> "Failure":
        return cls(" ".join(str(error).split()) or type(error).__name__, code)


def bind(settings: Settings) -> socket.socket:
    """A bound socket, taken before anything slow starts.

    Raises:
        OptionsError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that say that they are TCP
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # accepted ones inherit
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise OptionsError(f"cannot listen on {settings.host}:{settings.port}: {reason}") from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn, which takes connections while the engine drains, and ends in a bounded time.

    SIGHUP calls ``reload``, unless it says that the terminal was closed: then the server stops.
    """

    def __init__(
        self, config: uvicorn.Config, engine: AsyncEngine, grace: float, reload: Reload
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._grace = grace
        self._reload = reload
        self._reloading: asyncio.Task[None] | None = None
        self._terminal = _has_terminal()
        self._signalled = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests that run, refusing others meanwhile; then close what is left."""
        end = asyncio.get_running_loop().time() + self._grace
        draining = asyncio.create_task(self._engine.close(self._grace))
        await asyncio.sleep(0)  # it refuses requests from here on
        self._close_idle(fresh=False)  # whose first request may be on its way: it is answered
        await draining
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._close_idle(fresh=True)
        await self._send_rest(end)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_LINGER)

    def _close_idle(self, *, fresh: bool) -> None:
        """Close what waits for a next request; with ``fresh`` also what has had none yet."""
        for connection in list(self.server_state.connections):
            asked = isinstance(connection, Connection) and connection.cycle is not None
            if fresh or asked:
                connection.shutdown()  # one with a request is closed after its answer

    async def _send_rest(self, end: float) -> None:
        """Wait for the connections; beyond a moment only for bytes to send, and until ``end``."""
        clock = asyncio.get_running_loop().time
        linger = clock() + _LINGER
        while connections := self.server_state.connections:
            unsent = any(one.transport.get_write_buffer_size() for one in connections)
            if clock() > (max(linger, end) if unsent else linger):
                return
            await asyncio.sleep(_POLL)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM without raising them again: a drained exit is exit 0.

        The handlers run whatever the event loop does, so that the second signal always ends the
        process.
        """
        loop = asyncio.get_running_loop()
        kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup
        before = {number: signal.signal(number, self._stop) for number in _STOP_SIGNALS}
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, kept)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._signalled:
            leave(128 + number)
        self._signalled = self.should_exit = True

    def _hang_up(self, kept: bool) -> None:
        closed = self._terminal and not _has_terminal()
        self._terminal = self._terminal and not closed
        if not closed:
            self._reloading = asyncio.create_task(self._reload())
        elif not kept:
            self.should_exit = True


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def leave(code: int) -> NoReturn:
    """End the process now, whatever its threads do; an ordinary exit would wait for them."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)


def http_config(app: Any, limits: ConnectionLimits | None = None) -> uvicorn.Config:
    """How HTTP is spoken."""
    return uvicorn.Config(
        app,
        http=partial(Connection, limits or ConnectionLimits()),  # type: ignore[arg-type]  # called
        timeout_keep_alive=_IDLE,
        log_config=None,
        access_log=False,
        backlog=1024,
        server_header=False,
        ws="none",
        lifespan="off",
    )


def _warn_if_open(settings: Settings) -> None:
    if settings.api_key is None and not listens_on_loopback(settings.host):
        _log.warning(
            "listening on %s without --api-key: whoever reaches this address can use the server",
            settings.host,
        )


def _allow_files(connections: int) -> None:
    """Raise the process's limit of open files to what ``connections`` need."""
    wanted = connections + MOST_BEYOND + _OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft < wanted:
        _log.warning(
            "--max-connections is %d, for which %d open files are needed, but the limit of this "
            "process is %d (ulimit -n)",
            connections,
            wanted,
            soft,
        )


def run(
    app: Any,
    engine: AsyncEngine,
    settings: Settings,
    listener: socket.socket,
    *,
    banner: str,
    reload: Reload,
) -> Failure | None:
    """Serve until a signal (None), or until the engine could not be loaded or has failed.

    Unless it never served, a step, a load or a worker thread may still run: the process is to
    `leave`. ``reload`` answers SIGHUP.
    """
    _warn_if_open(settings)
    _allow_files(settings.max_connections)
    limits = ConnectionLimits(settings.max_connections, settings.send_timeout)
    server = _Server(http_config(app, limits), engine, settings.drain_timeout, reload)

    async def main() -> Failure | None:
        failures: list[Failure] = []
        engine.start()
        watcher = asyncio.create_task(_watch(engine, banner, failures.append, server))
        await server.serve(sockets=[listener])
        watcher.cancel()
        return failures[0] if failures else None

    runner = asyncio.Runner()
    failure = runner.run(main())
    if failure is not None and failure.code == NOT_STARTED:
        runner.close()  # otherwise it would wait for worker threads
    return failure


async def _watch(
    engine: AsyncEngine, banner: str, fail: Callable[[Failure], None], server: uvicorn.Server
) -> None:
    """Announce readiness; stop the server when loading or the engine has failed."""
    try:
        await engine.loaded()
    except Exception as error:  # noqa: BLE001 - whatever the loader raised ends the server
        fail(Failure.of(error, NOT_STARTED))
    else:
        gc.collect()
        gc.freeze()  # modules, tokenizer and graphs stay: no later collection walks them again
        _log.info("%s", banner)
        failure = await engine.over()
        if failure is None:
            return
        fail(Failure.of(failure, ENGINE_FAILED))
    server.should_exit = True
