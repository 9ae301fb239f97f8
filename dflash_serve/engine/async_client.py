"""The asyncio side of the engine loop: one queue per request, chunks handed over per step.

Weights are loaded on a thread of their own, so that neither event loop nor engine loop waits.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import mlx.core as mx

from dflash_serve.engine.client import EngineState
from dflash_serve.engine.commands import (
    Abort,
    Add,
    Changed,
    Emitted,
    Event,
    LaneRunner,
    Loaded,
    NewDrafter,
    Open,
    Stop,
    Swap,
    Swapped,
)
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.errors import EngineUnavailable, QueueFull
from dflash_serve.engine.loop import EngineLoop, StepTimes
from dflash_serve.engine.scheduler import check_request
from dflash_serve.engine.types import EngineRequest, EngineStats, FinishReason, TokenChunk, Usage

_RETRY_AFTER = 2
_PATIENCE = 0.5
"""Seconds that the engine gets to end after its last command: a step may be under way."""
_ENDS = {
    EngineState.FAILED: (FinishReason.ERROR, "The engine has failed. Please try again later."),
    EngineState.STOPPED: (FinishReason.ABORTED, "The engine has stopped."),
}
"""How requests end that the loop did not get to, and what they are told."""


@dataclass(frozen=True, slots=True)
class _Live:
    """A request that has not ended: where its chunks go, and the group it counts in."""

    chunks: asyncio.Queue[TokenChunk]
    group: str


class AsyncEngine:
    """An `EngineClient` over an `EngineLoop`. Lives on the event loop that calls ``start``.

    ``load`` runs on the thread for loading and leaves no array that is not evaluated.
    """

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
        self._swaps: dict[int, asyncio.Future[None]] = {}
        self._numbers = count()
        self._engine = EngineLoop(self._tell)
        # one thread for all loads: MLX keeps a worker for each thread that ever computed
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="mlx-loader")
        self._loading: Future[None] | None = None

    def start(self) -> None:
        """Start loading; returns at once."""
        self._event_loop = asyncio.get_running_loop()
        self._engine.start()
        self._loading = self._loader.submit(self._load_and_open)

    async def loaded(self) -> None:
        """Wait until loading has ended.

        Raises:
            Exception: what the loader raised.
        """
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    async def over(self) -> BaseException | None:
        """Wait until the engine has ended: why it failed, None if it was stopped."""
        await self._ended.wait()
        return self._failure

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

    def require_ready(self) -> Loaded:
        """What runs.

        Raises:
            EngineUnavailable: nothing does, or not for long.
        """
        if self._loaded is None or self._state is not EngineState.READY:
            raise self._unavailable()
        return self._loaded

    def check_room(self) -> None:
        config = self.require_ready().config
        bound = config.max_batch + config.max_queue
        if len(self._groups) >= bound:
            raise QueueFull(
                f"{len(self._groups)} requests are running or waiting, and the limit is "
                f"{bound}. Please try again later.",
                _RETRY_AFTER,
            )

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        check_request(request, self.require_ready().config)
        if request.id in self._live:
            raise ValueError(f"request id {request.id!r} is in use")
        group = request.group or request.id
        if group not in self._groups:
            self.check_room()
        chunks: asyncio.Queue[TokenChunk] = asyncio.Queue()
        self._live[request.id] = _Live(chunks, group)
        self._groups[group] += 1
        self._idle.clear()
        self._engine.put(Add(request))
        return _Chunks(request.id, chunks, self.abort)

    def abort(self, request_id: str) -> None:
        if request_id in self._live:
            self._engine.put(Abort(request_id))

    async def swap(self, load: Callable[[LaneRunner], NewDrafter]) -> None:
        """Put another drafter into the running engine, between two steps; streams go on.

        ``load`` runs on the thread for loading, and leaves no array that is not evaluated. Of the
        runner it may read what it says of itself. Whatever is raised, the old drafter goes on.

        Raises:
            EngineUnavailable: the engine is not running, or ends before the swap.
            Exception: what ``load`` or the new drafter's first steps raised.
        """
        loaded = self.require_ready()
        number = next(self._numbers)
        swapped = asyncio.get_running_loop().create_future()
        self._swaps[number] = swapped

        def put(loading: Future[NewDrafter]) -> None:
            if (failure := loading.exception()) is None:
                self._engine.put(Swap(number, loading.result()))
            else:
                self._tell(Swapped(number, failure))

        self._loader.submit(load, loaded.runner).add_done_callback(put)
        try:
            await swapped
        finally:
            del self._swaps[number]

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more, a load included."""
        return self._ended.is_set() and (self._loading is None or self._loading.done())

    async def close(self, grace: float) -> None:
        """As `EngineClient.close`. Does not wait for a load, nor long for a step: see ``ended``."""
        if self._state is EngineState.READY:
            self._state = EngineState.DRAINING
            await _wait(self._idle, grace)
            for request_id in list(self._live):
                self._engine.put(Abort(request_id))
        self._engine.put(Stop())
        with contextlib.suppress(RuntimeError):  # closed before
            # a thread's streams that end with the process may abort it
            self._loader.submit(mx.clear_streams)
        self._loader.shutdown(wait=False)
        if await _wait(self._ended, _PATIENCE):
            self._engine.join(_PATIENCE)  # it has said its last word
        else:
            self._end_all(FinishReason.ABORTED, "The engine is shutting down.")

    @property
    def _config(self) -> EngineConfig:
        if self._loaded is None:
            raise self._unavailable()
        return self._loaded.config

    def _unavailable(self) -> EngineUnavailable:
        failed = self._state is EngineState.FAILED
        state = "has failed" if failed else f"is {self._state.value}"
        return EngineUnavailable(
            f"The engine {state} and takes no requests now. Please try again later."
        )

    def _load_and_open(self) -> None:
        """Runs on the loader's thread, whose future keeps no weights alive."""
        try:
            loaded = self._load()
        except BaseException as error:  # noqa: BLE001 - the border: whoever waits is told
            self._engine.put(Stop(error))
            return
        if not self._ended.is_set():
            self._loaded = loaded
            self._engine.put(Open(loaded))

    def _tell(self, event: Event) -> None:
        """Take ``event`` on the event loop; once that is closed nobody is left to tell."""
        if self._event_loop is None or self._event_loop.is_closed():
            return
        with contextlib.suppress(RuntimeError):  # closed between the check and the call
            self._event_loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: Event) -> None:
        match event:
            case Emitted(chunks):
                self._deliver(chunks)
            case Swapped(number, failure):
                _resolve(self._swaps.get(number), failure)
            case Changed(state, failure):
                self._settle(state, failure)

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
        """Tell everybody who still waits; nobody waits forever."""
        self._deliver([TokenChunk(name, (), finish, Usage(), error) for name in self._live])
        for swapped in self._swaps.values():
            _resolve(swapped, EngineUnavailable(error))

    def _settle(self, state: EngineState, failure: BaseException | None) -> None:
        if not (self._state is EngineState.DRAINING and state is EngineState.READY):
            self._state = state
        self._failure = failure
        self._settled.set()
        if state in _ENDS:
            self._loaded = None  # whoever still holds this engine does not hold the weights
            self._end_all(*_ENDS[state])
            self._ended.set()


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether ``event`` came true within ``seconds``."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _resolve(swapped: asyncio.Future[None] | None, failure: BaseException | None) -> None:
    """Tell whoever waits, if anybody still does."""
    if swapped is None or swapped.done():
        return
    if failure is None:
        swapped.set_result(None)
    else:
        swapped.set_exception(failure)


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
