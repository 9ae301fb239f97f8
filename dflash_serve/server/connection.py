"""A client's connection: uvicorn's, with bounds on how slowly the client may send and read.

Knows HTTP's frames (head, body, end), nothing of what is in them.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dflash_serve.server.pace import Pace

_log = logging.getLogger("dflash_serve")
CROWDED = "crowded"
"""Key of the ASGI scope's state: this connection is beyond the limit."""

MOST_BEYOND = 64
"""Connections beyond the limit that are still told so; any more are closed at once."""
_HEAD_BYTES = 65536
_SLACK = 1.0
"""Seconds by which an answer to a slow body comes before its connection is closed."""
_MIN_READ = 1024
"""Bytes a second that a client must read while there are bytes to send to it."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``connections``: how many at once. ``send_seconds``: how long a client may read nothing.

    ``head_seconds``: until a request's headers are complete. ``pace``: for the rest of it.
    """

    connections: int = 1024
    send_seconds: float = 60.0
    head_seconds: float = 20.0
    pace: Pace = field(default_factory=Pace)


class Connection(HttpToolsProtocol):
    """Closes itself when the client is too slow to send, and aborts when it does not read.

    An abort frees the unsent bytes and ends the request as a client that left does. Two timers:
    one runs while a request is incomplete, the other one while there are unsent bytes.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._limits = limits
        self._scope_state = dict(app_state)
        super().__init__(config, server_state, self._scope_state, _loop)
        self._in_head = True
        self._began = 0.0
        self._received = 0  # bytes, since then
        self._read_timer: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes, when the timer was started
        self._send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # pause as soon as the kernel takes no more: memory for a client that does not read is
        # one message, and `pause_writing` and `resume_writing` mark the time with unsent bytes
        transport.set_write_buffer_limits(high=0)
        count, limit = len(self.connections), self._limits.connections
        if count > limit + MOST_BEYOND:
            transport.abort()
            return
        self._scope_state[CROWDED] = count > limit
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_reading_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._read_timer is None:
            self._expect_head()
        self._received += len(data)
        super().data_received(data)
        if self._in_head and self._received > _HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The request's headers are over {_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        self._start_reading_timer()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._received = True, 0  # of the next one
        self._stop_reading_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_send_timer()

    def _expect_head(self) -> None:
        self._in_head = True
        self._start_reading_timer()

    def _start_reading_timer(self) -> None:
        self._stop_reading_timer()
        self._began, self._received = self.loop.time(), 0
        self._read_timer = self.loop.call_at(self._read_deadline(), self._check_reading)

    def _stop_reading_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _read_deadline(self) -> float:
        if self._in_head:
            return self._began + self._limits.head_seconds
        return self._began + self._limits.pace.seconds(self._received) + _SLACK

    def _check_reading(self) -> None:
        if not self.transport.is_reading():
            self._began = self.loop.time()  # the server lets it wait: requests sent ahead
        deadline = self._read_deadline()
        if self.loop.time() < deadline:
            self._read_timer = self.loop.call_at(deadline, self._check_reading)
        else:
            self.shutdown()  # now, or after the answer that is under way

    def _start_send_timer(self) -> None:
        self._stop_send_timer()
        self._unsent = self.transport.get_write_buffer_size()
        self._send_timer = self.loop.call_later(self._limits.send_seconds, self._check_sending)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _check_sending(self) -> None:
        read = self._unsent - self.transport.get_write_buffer_size()
        if read >= _MIN_READ * self._limits.send_seconds:
            self._start_send_timer()
            return
        _log.info("a client read %d bytes in %g s: closed", read, self._limits.send_seconds)
        self.transport.abort()
