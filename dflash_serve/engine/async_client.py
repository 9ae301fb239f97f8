"""The asyncio side of the engine loop: one queue per request, chunks handed over per step."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from dflash_serve.engine.client import EngineState
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import EngineUnavailable, QueueFull
from dflash_serve.engine.loop import Drafting, EngineLoop, Loaded, StepTimes
from dflash_serve.engine.plan import Runner
from dflash_serve.engine.scheduler import check_request
from dflash_serve.engine.types import EngineRequest, EngineStats, FinishReason, TokenChunk, Usage

_RETRY_AFTER = 2
_PATIENCE = 0.5
"""Seconds that a loaded engine gets to end after its last command: a step may be under way."""
_ENDED = {EngineState.FAILED: FinishReason.ERROR, EngineState.STOPPED: FinishReason.ABORTED}


@dataclass(frozen=True, slots=True)
class _Live:
    """A request that has not ended: where its chunks go, and the group it counts in."""

    chunks: asyncio.Queue[TokenChunk]
    group: str


class AsyncEngine:
    """An `EngineClient` over an `EngineLoop`. Lives on the event loop that calls ``start``."""

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._state = EngineState.LOADING
        self._failure: BaseException | None = None
        self._loaded: Loaded | None = None
        self._live: dict[str, _Live] = {}
        self._groups: Counter[str] = Counter()
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._settled = asyncio.Event()
        self._ended = asyncio.Event()
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

    def check_room(self) -> None:
        config = self._running_config()
        bound = config.max_batch + config.max_queue
        if len(self._groups) >= bound:
            raise QueueFull(
                f"{len(self._groups)} requests are running or waiting, and the limit is "
                f"{bound}. Please try again later.",
                _RETRY_AFTER,
            )

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        config = self._running_config()
        check_request(request, config)
        if request.id in self._live:
            raise ValueError(f"request id {request.id!r} is in use")
        group = request.group or request.id
        if group not in self._groups:
            self.check_room()
        chunks: asyncio.Queue[TokenChunk] = asyncio.Queue()
        self._live[request.id] = _Live(chunks, group)
        self._groups[group] += 1
        self._idle.clear()
        self._engine.add(request)
        return _Chunks(request.id, chunks, self.abort)

    def abort(self, request_id: str) -> None:
        if request_id in self._live:
            self._engine.abort(request_id)

    async def swap(self, change: Callable[[Runner], Drafting]) -> Drafting:
        """Put another drafter into the running engine, between two steps; streams go on.

        ``change`` runs on the engine's thread. If it raises, the old drafter stays.

        Raises:
            EngineUnavailable: the engine is not running, or ends before the swap.
            Exception: what ``change`` raised.
        """
        if self._loaded is None or self._state is not EngineState.READY:
            raise self._unavailable()
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

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self._ended.is_set()

    async def close(self, grace: float) -> None:
        """As `EngineClient.close`. Does not wait for a load, nor long for a step: see ``ended``."""
        patience = 0.0 if self._state is EngineState.LOADING else _PATIENCE
        if self._state is EngineState.READY:
            self._state = EngineState.DRAINING
            await _wait(self._idle, grace)
            for request_id in list(self._live):
                self._engine.abort(request_id)
        self._engine.stop()
        if await _wait(self._ended, patience):
            self._engine.join(_PATIENCE)  # it has said its last word
        else:
            self._end_all(FinishReason.ABORTED, "the engine is shutting down")

    @property
    def _config(self) -> EngineConfig:
        if self._loaded is None:
            raise self._unavailable()
        return self._loaded.config

    def _running_config(self) -> EngineConfig:
        if self._loaded is None or self._state is not EngineState.READY:
            raise self._unavailable()
        return self._loaded.config

    def _unavailable(self) -> EngineUnavailable:
        failed = self._state is EngineState.FAILED
        state = "has failed" if failed else f"is {self._state.value}"
        return EngineUnavailable(
            f"The engine {state} and takes no requests now. Please try again later."
        )

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
            # On its last chunk a request is removed, whether or not its client still listens.
            final = chunk.finish is not None
            live = (self._live.pop if final else self._live.get)(chunk.request_id, None)
            if live is None:
                continue
            live.chunks.put_nowait(chunk)
            if final:
                self._leave(live.group)
        if not self._live:
            self._idle.set()

    def _leave(self, group: str) -> None:
        self._groups[group] -= 1
        if not self._groups[group]:
            del self._groups[group]

    def _end_all(self, finish: FinishReason, error: str) -> None:
        """Tell every client that still waits; nobody waits forever."""
        self._deliver([TokenChunk(name, (), finish, Usage(), error) for name in self._live])

    def _settle(self, state: EngineState, failure: BaseException | None) -> None:
        if not (self._state is EngineState.DRAINING and state is EngineState.READY):
            self._state = state
        self._failure = failure or self._failure
        self._settled.set()
        if state in _ENDED:
            self._loaded = None  # whoever still holds this engine does not hold the weights
            error = f"the engine {state.value}"
            self._end_all(_ENDED[state], error)  # those whose command the loop no longer read
            self._ended.set()
            for swapped in self._swaps:
                _resolve(swapped, EngineUnavailable(error))


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether ``event`` came true within ``seconds``."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


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
