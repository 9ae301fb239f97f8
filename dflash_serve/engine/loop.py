"""The thread that runs models: it warms up, steps, swaps drafters, recovers and frees.

Commands in, events out, both data. Between two steps it applies every waiting command, so a cancel
takes effect within a round. Weights come to it loaded and evaluated.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import TypeVar

import mlx.core as mx

from dflash_serve.engine.admission import check_limit
from dflash_serve.engine.client import EngineState
from dflash_serve.engine.commands import (
    Abort,
    Add,
    Changed,
    Command,
    Emitted,
    Event,
    LaneRunner,
    Loaded,
    NewDrafter,
    Open,
    Reset,
    Stop,
    Swap,
    Swapped,
)
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.errors import EngineFailed
from dflash_serve.engine.faults import Faults
from dflash_serve.engine.plan import RowBytes, StepPlan
from dflash_serve.engine.policies import judges_chains
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineStats, TokenChunk
from dflash_serve.engine.warm_up import CostStore, WarmUp

_Result = TypeVar("_Result")
_log = logging.getLogger("dflash_serve.engine")

_STEP_FAILED = "The server failed while it computed this answer. Please send the request again."


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Totals over all steps, in seconds: inside MLX calls, and whole steps."""

    device: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class _Lane:
    """One served target."""

    scheduler: Scheduler
    runner: LaneRunner
    config: EngineConfig


@dataclass(frozen=True, slots=True)
class _Warming:
    """A runner in its first steps, within the memory ``limit``; then ``command`` takes effect."""

    command: Open | Swap
    runner: LaneRunner
    limit: int
    steps: WarmUp
    store: CostStore | None


class EngineLoop:
    """Applies commands and steps its lanes in turn, on one thread, until stopped.

    ``tell`` receives the events on the loop's thread and must not block. Owner of the lanes: of
    every scheduler and runner. ``clock`` gives seconds.
    """

    def __init__(
        self, tell: Callable[[Event], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="mlx-engine", daemon=True)
        self._lanes: list[_Lane] = []
        self._warming: deque[_Warming] = deque()
        self._ready: list[TokenChunk] = []  # committed, and not told of yet
        self._faults = Faults(clock)
        self._stats = EngineStats()
        self._times = StepTimes()

    @property
    def stats(self) -> EngineStats:
        """Of all lanes, as of the last step."""
        return self._stats

    @property
    def times(self) -> StepTimes:
        return self._times

    def start(self) -> None:
        self._thread.start()

    def put(self, command: Command) -> None:
        """Apply ``command`` after those before it; does not wait."""
        self._commands.put(command)

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        end = self._live()
        # Clears MLX's cache of traced graphs too. What is left of that is freed when the thread
        # ends, which takes the interpreter's lock: if the interpreter is gone by then, it aborts.
        mx.clear_streams()
        self._tell(end)

    def _live(self) -> Changed:
        """Serve until stopped; how it ended. Nothing of it is left on the device."""
        try:
            return self._serve()
        except EngineFailed as failure:
            reason = str(failure)
        except BaseException as error:  # noqa: BLE001 - the border: whoever waits is told
            _log.exception("the engine failed")
            reason = f"{type(error).__name__}: {error}"
        finally:
            self._hand_out()
            for runner in self._runners():
                _close(runner)
            # whoever still holds this loop does not hold the weights
            self._lanes.clear()
            self._warming.clear()
        # a new error: the old one's traceback holds arrays and graphs, which have to go here
        return Changed(EngineState.FAILED, EngineFailed(reason))

    def _serve(self) -> Changed:
        while (stop := self._apply_commands()) is None:
            for number in range(len(self._lanes)):
                self._step(number)
            if self._warming and self._has_room(self._warming[0]):
                self._warm_up(self._warming[0])
        state = EngineState.STOPPED if stop.failure is None else EngineState.FAILED
        return Changed(state, stop.failure)

    def _apply_commands(self) -> Stop | None:
        """Apply what is queued, waiting only when there is nothing to run."""
        while True:
            busy = self._warming or not all(lane.scheduler.idle for lane in self._lanes)
            if not busy:
                self._hand_out()
            try:
                command = self._commands.get(block=not busy)
            except queue.Empty:
                return None
            if isinstance(command, Stop):
                return command
            self._publish(self._apply(command))

    def _apply(self, command: Open | Add | Abort | Swap | Reset) -> list[TokenChunk]:
        match command:
            case Open(loaded):
                self._begin(command, loaded.runner, loaded.config, loaded.costs)
            case Add(request, lane):
                self._lanes[lane].scheduler.add(request)
            case Abort(request_id):
                return [c for lane in self._lanes for c in lane.scheduler.abort(request_id)]
            case Swap(new=new, lane=lane):
                self._begin_swap(command, new, self._lanes[lane])
            case Reset(plan, lane):
                self._lanes[lane].runner.reset()
                return self._lanes[lane].scheduler.recover(plan, _STEP_FAILED)
        return []

    def _step(self, number: int) -> None:
        """Make a lane's next step, if it has one.

        What the step before it made is handed out while the device computes this one, so that text
        and JSON of a round cost the next one nothing.
        """
        started = self._clock()
        lane = self._lanes[number]
        plan = lane.scheduler.plan()
        if plan is None:
            self._hand_out()
            return
        result = self._attempt(partial(lane.runner.run, plan, self._hand_out))
        if result is None:
            self._publish(self._apply(Reset(plan, number)))
            return
        self._show(lane.scheduler.commit(plan, result))
        elapsed = self._clock() - started
        self._times = StepTimes(
            self._times.device + result.device_time, self._times.total + elapsed
        )

    def _attempt(self, work: Callable[[], _Result]) -> _Result | None:
        """What ``work`` on the device gives; None if it failed and the lane can be reset.

        Raises:
            EngineFailed: it cannot.
        """
        try:
            return work()
        except Exception as error:  # noqa: BLE001 - the border: the rows of the step are told
            _log.exception("a step failed")
            reason = self._faults.fatal(error)
        if reason is not None:
            raise EngineFailed(reason)
        return None  # the error is gone by now, and with it the arrays that its traceback held

    def _begin(
        self,
        command: Open | Swap,
        runner: LaneRunner,
        config: EngineConfig,
        store: CostStore | None,
    ) -> None:
        known = store.read() if store is not None and judges_chains(config) else ()
        steps = WarmUp(config, runner.bytes_for, known)
        self._warming.append(_Warming(command, runner, config.memory_limit, steps, store))

    def _begin_swap(self, swap: Swap, new: NewDrafter, lane: _Lane) -> None:
        """Put the new drafter into a runner of its own, to be tried."""
        config = replace(lane.config, block_size=new.block_size)
        try:
            runner = lane.runner.beside(new.drafter, new.block_size)
            check_limit(config, runner.bytes_for)
        except Exception as error:  # noqa: BLE001 - the border: whoever asked is told
            self._tell(Swapped(swap.number, _bare(error)))
            return
        self._begin(swap, runner, config, new.costs)

    def _has_room(self, warming: _Warming) -> bool:
        """Whether its rows fit beside those of requests, of which none are admitted meanwhile."""
        reserved = sum(lane.scheduler.reserved for lane in self._lanes)
        needed = warming.steps.bytes
        return not warming.limit or not reserved or reserved + needed <= warming.limit

    def _warm_up(self, warming: _Warming) -> None:
        """Make the next of a runner's first steps; after the last one its command takes effect."""
        failure = None
        try:
            plan = warming.steps.next()
            if plan is not None:
                started = self._clock()
                result = warming.runner.run(plan)
                warming.steps.ran(result, self._clock() - started)
                return
        except Exception as error:  # noqa: BLE001 - the border: whoever asked is told
            failure = _bare(error)
        costs = warming.steps.costs
        if failure is None and warming.steps.measures and warming.store is not None:
            warming.store.write(costs)
        match warming.command:
            case Open(loaded):
                self._open(loaded, costs, failure)
            case Swap():
                self._warming.popleft()
                _close(warming.runner)
                if failure is None:
                    self._take_over(warming.command, warming.runner.bytes_for, costs)
                self._tell(Swapped(warming.command.number, failure))

    def _open(
        self, loaded: Loaded, costs: tuple[CostPoint, ...], failure: Exception | None
    ) -> None:
        if failure is not None:
            raise EngineFailed(str(failure))
        runner, config = loaded.runner, loaded.config
        runner.reset()
        elsewhere = partial(self._reserved_beside, len(self._lanes))
        scheduler = Scheduler(config, self._clock, runner.bytes_for, elsewhere, costs)
        self._warming.popleft()
        self._lanes.append(_Lane(scheduler, runner, config))
        self._publish([])
        self._tell(Changed(EngineState.READY))

    def _take_over(self, swap: Swap, row_bytes: RowBytes, costs: tuple[CostPoint, ...]) -> None:
        """Let a drafter take over that makes each row take ``row_bytes``."""
        new, lane = swap.new, self._lanes[swap.lane]
        freed = lane.scheduler.make_room(new.block_size, row_bytes)

        def change() -> bool:
            if freed is not None:
                lane.runner.run(freed)
            lane.runner.draft_with(new.drafter, new.block_size)
            return True

        if not self._attempt(change):  # rows have lost their caches, so they begin again
            self._publish(self._apply(Reset(StepPlan(), swap.lane)))
            lane.runner.draft_with(new.drafter, new.block_size)
        lane.scheduler.draft_anew(
            new.block_size, lane.runner.bytes_for, costs, shows_context=lane.runner.shows_context
        )

    def _reserved_beside(self, number: int) -> int:
        """Cache bytes of all lanes but one and of warm-ups: they share the memory limit."""
        others = (lane for index, lane in enumerate(self._lanes) if index != number)
        warming = sum(one.steps.bytes for one in self._warming)
        return sum(lane.scheduler.reserved for lane in others) + warming

    def _show(self, chunks: list[TokenChunk]) -> None:
        """Show what the engine does now; ``chunks`` are handed out next."""
        self._stats = _total([lane.scheduler.stats() for lane in self._lanes])
        self._ready += chunks

    def _publish(self, chunks: list[TokenChunk]) -> None:
        """Show what the engine does now, and hand chunks out at once."""
        self._show(chunks)
        self._hand_out()

    def _hand_out(self) -> None:
        """Tell of all chunks that are ready."""
        if self._ready:
            chunks, self._ready = self._ready, []
            self._tell(Emitted(chunks))

    def _runners(self) -> list[LaneRunner]:
        """All that have something on the device."""
        return [*(lane.runner for lane in self._lanes), *(one.runner for one in self._warming)]


def _total(lanes: list[EngineStats]) -> EngineStats:
    if len(lanes) == 1:
        return lanes[0]
    return EngineStats(*map(sum, zip(*map(astuple, lanes), strict=True)))


def _bare(error: Exception) -> Exception:
    """An error without its traceback, whose frames hold arrays of the loop's thread."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _close(runner: LaneRunner) -> None:
    try:
        runner.close()
    except Exception:  # noqa: BLE001 - the border: a device that failed may fail here again
        _log.exception("the device could not be let go")
