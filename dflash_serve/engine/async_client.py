"""The asyncio side of the engine loop: one queue per request, chunks handed over per step."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from dflash_serve.engine.client import EngineState
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import EngineUnavailable, QueueFull
from dflash_serve.engine.loop import Drafting, EngineLoop, Loaded, StepTimes
from dflash_serve.engine.plan import Runner
from dflash_serve.engine.scheduler import check_request
from dflash_serve.engine.types import EngineRequest, EngineStats, FinishReason, TokenChunk, Usage

_RETRY_AFTER = 2
_ENDED = {EngineState.FAILED: FinishReason.ERROR, EngineState.STOPPED: FinishReason.ABORTED}


class AsyncEngine:
    """An `EngineClient` over an `EngineLoop`. Lives on the event loop that calls ``start``."""

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._state = EngineState.LOADING
        self._failure: BaseException | None = None
        self._loaded: Loaded | None = None
        self._queues: dict[str, asyncio.Queue[TokenChunk]] = {}
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._settled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._swaps: set[asyncio.Future[Drafting]] = set()
        self._engine = EngineLoop(self._load_and_keep, self._emit, self._changed)

    def start(self) -> None:
        """Start loading; returns at once."""
        self._event_loop = asyncio.get_running_loop()
        self._engine.start()

    async def loaded(self) -> None:
        """Wait until loading has ended.

        Raises:
            Exception: what the loader raised.
        """
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def max_context(self) -> int:
        return self._config.max_context

    @property
    def times(self) -> StepTimes:
        """Seconds in MLX calls and in whole steps, since the start."""
        return self._engine.times

    def stats(self) -> EngineStats:
        return self._engine.stats

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        if self._loaded is None or self._state is not EngineState.READY:
            raise EngineUnavailable(f"the engine is {self._state.value}")
        check_request(request, self._config)
        bound = self._config.max_batch + self._config.max_queue
        if len(self._queues) >= bound:
            raise QueueFull(
                f"{len(self._queues)} requests are running or waiting, the limit is {bound}",
                _RETRY_AFTER,
            )
        if request.id in self._queues:
            raise ValueError(f"request id {request.id!r} is in use")
        chunks: asyncio.Queue[TokenChunk] = asyncio.Queue()
        self._queues[request.id] = chunks
        self._idle.clear()
        self._engine.add(request)
        return _Chunks(request.id, chunks, self.abort)

    def abort(self, request_id: str) -> None:
        if request_id in self._queues:
            self._engine.abort(request_id)

    async def swap(self, change: Callable[[Runner], Drafting]) -> Drafting:
        """Put another drafter into the running engine, between two steps; streams go on.

        ``change`` runs on the engine's thread. If it raises, the old drafter stays.

        Raises:
            EngineUnavailable: the engine is not running, or ends before the swap.
            Exception: what ``change`` raised.
        """
        if self._loaded is None or self._state is not EngineState.READY:
            raise EngineUnavailable(f"the engine is {self._state.value}")
        runner = self._loaded.runner
        swapped: asyncio.Future[Drafting] = asyncio.get_running_loop().create_future()
        self._swaps.add(swapped)
        self._engine.swap(
            lambda: change(runner), lambda how: self._call_soon(lambda: _resolve(swapped, how))
        )
        try:
            return await swapped
        finally:
            self._swaps.discard(swapped)

    async def close(self, grace: float) -> None:
        if self._state is EngineState.READY:
            self._state = EngineState.DRAINING
            try:
                await asyncio.wait_for(self._idle.wait(), grace)
            except TimeoutError:
                for request_id in list(self._queues):
                    self._engine.abort(request_id)
        self._engine.stop()
        await asyncio.to_thread(self._engine.join, 10.0)

    @property
    def _config(self) -> EngineConfig:
        if self._loaded is None:
            raise EngineUnavailable(f"the engine is {self._state.value}")
        return self._loaded.config

    def _load_and_keep(self) -> Loaded:
        self._loaded = self._load()
        return self._loaded

    def _emit(self, chunks: list[TokenChunk]) -> None:
        if chunks:
            self._call_soon(lambda: self._deliver(chunks))

    def _changed(self, state: EngineState, failure: BaseException | None) -> None:
        self._call_soon(lambda: self._settle(state, failure))

    def _call_soon(self, call: Callable[[], None]) -> None:
        """Run ``call`` on the event loop; once that is closed nobody is left to tell."""
        if self._event_loop is None or self._event_loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):  # closed between the check and the call
            self._event_loop.call_soon_threadsafe(call)

    def _deliver(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            # The request leaves the books here, whether or not its client still listens.
            final = chunk.finish is not None
            queue = (self._queues.pop if final else self._queues.get)(chunk.request_id, None)
            if queue is not None:
                queue.put_nowait(chunk)
        if not self._queues:
            self._idle.set()

    def _settle(self, state: EngineState, failure: BaseException | None) -> None:
        if not (self._state is EngineState.DRAINING and state is EngineState.READY):
            self._state = state
        self._failure = failure or self._failure
        self._settled.set()
        if state in _ENDED:
            # Requests whose command the loop no longer read: nobody waits forever.
            finish, error = _ENDED[state], f"the engine {state.value}"
            self._deliver(
                [TokenChunk(name, (), finish, Usage(), error) for name in list(self._queues)]
            )
            for swapped in self._swaps:
                _resolve(swapped, EngineUnavailable(error))


def _resolve(swapped: asyncio.Future[Drafting], how: Drafting | Exception) -> None:
    """Tell whoever waits, if anybody still does."""
    if swapped.done():
        return
    if isinstance(how, Exception):
        swapped.set_exception(how)
    else:
        swapped.set_result(how)


class _Chunks:
    """The chunks of one request. Closing it before the terminal chunk aborts the request."""

    def __init__(
        self,
        request_id: str,
        chunks: asyncio.Queue[TokenChunk],
        abort: Callable[[str], None],
    ) -> None:
        self._request_id = request_id
        self._chunks = chunks
        self._abort = abort
        self._done = False

    def __aiter__(self) -> "_Chunks":
        return self

    async def __anext__(self) -> TokenChunk:
        if self._done:
            raise StopAsyncIteration
        chunk = await self._chunks.get()
        self._done = chunk.finish is not None
        return chunk

    async def aclose(self) -> None:
        """Idempotent."""
        if not self._done:
            self._done = True
            self._abort(self._request_id)
