"""The engine's error tree. Messages are for users: they name the value and the limit.

EngineError
 ├─ RequestError            the request can never be served as it stands
 ├─ QueueFull               try again later
 ├─ EngineUnavailable       the engine is loading, draining, stopped or has failed
 └─ EngineFailed            the engine has ended by itself, and the process has to
"""


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class RequestError(EngineError):
    """A request that can never be served. ``param`` names the offending field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


class QueueFull(EngineError):
    """The waiting queue is at its bound. ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineUnavailable(EngineError):
    """The engine takes no requests now."""


class EngineFailed(EngineError):
    """What happened on the device cannot be recovered from; the log has the tracebacks."""
