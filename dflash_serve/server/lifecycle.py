"""Running the HTTP server: bind, load beside it, drain on a signal, exit code.

Knows the engine only as something that loads, fails and closes.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import uvicorn

from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.server.settings import Settings, SettingsError

_log = logging.getLogger("dflash_serve")
_LINGER = 5.0
"""Seconds that connections get after the last request has ended."""

Reload = Callable[[], Coroutine[Any, Any, None]]


def bind(settings: Settings) -> socket.socket:
    """A bound socket, taken before anything slow starts.

    Raises:
        SettingsError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}"
        ) from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn, draining the engine while it waits for connections to end.

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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._engine.close(self._grace))
        await super().shutdown(sockets)
        if self.force_exit:  # a second signal: no more grace
            draining.cancel()
            await self._engine.close(0)
        else:
            await draining

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGINT and SIGTERM without raising them again: a drained exit is exit 0."""
        loop = asyncio.get_running_loop()
        kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up, kept)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _hang_up(self, kept: bool) -> None:
        closed = self._terminal and not _has_terminal()
        self._terminal = self._terminal and not closed
        if not closed:
            self._reloading = asyncio.create_task(self._reload())
        elif not kept:
            self.handle_exit(signal.SIGHUP, None)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def run(
    app: Any,
    engine: AsyncEngine,
    settings: Settings,
    listener: socket.socket,
    *,
    banner: str,
    reload: Reload,
) -> str | None:
    """Serve until a signal (None) or until loading has failed (why, in one line).

    ``reload`` answers SIGHUP.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(settings.drain_timeout + _LINGER),
        backlog=1024,
        server_header=False,
        ws="none",
        lifespan="off",
    )
    server = _Server(config, engine, settings.drain_timeout, reload)

    async def main() -> str | None:
        failures: list[str] = []
        engine.start()
        watcher = asyncio.create_task(_watch(engine, banner, failures.append, server))
        await server.serve(sockets=[listener])
        watcher.cancel()
        return failures[0] if failures else None

    return asyncio.run(main())


async def _watch(
    engine: AsyncEngine, banner: str, fail: Callable[[str], None], server: uvicorn.Server
) -> None:
    """Announce readiness; on a failed load stop the server."""
    try:
        await engine.loaded()
    except Exception as error:  # noqa: BLE001 - whatever the loader raised ends the server
        fail(" ".join(str(error).split()) or type(error).__name__)
        server.should_exit = True
        return
    _log.info("%s", banner)
