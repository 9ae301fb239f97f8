"""The thread that owns MLX: it loads, runs and frees. Commands in, chunks out, both plain values.

Between two steps it applies every waiting command, so a cancel takes effect within a round.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from dflash_serve.engine.client import EngineState
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import Runner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, EngineStats, TokenChunk

_log = logging.getLogger("dflash_serve.engine")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loader hands over, made on the loop's own thread."""

    runner: Runner
    config: EngineConfig
    bytes_per_token: int = 0


@dataclass(frozen=True, slots=True)
class Drafting:
    """How a runner drafts after a swap: what the scheduler has to know of it."""

    block_size: int
    bytes_per_token: int


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Totals over all steps, in seconds: inside MLX calls, and whole steps."""

    device: float = 0.0
    total: float = 0.0


Command = Callable[[Scheduler], list[TokenChunk]]
"""Runs on the loop's thread between two steps; its chunks are emitted."""


class EngineLoop:
    """Runs ``load`` and then steps on one thread until stopped.

    ``emit`` receives the chunks of each step, ``changed`` every change of state; both are called
    on the loop's thread and must not block. Owner of the scheduler and the runner.
    """

    def __init__(
        self,
        load: Callable[[], Loaded],
        emit: Callable[[list[TokenChunk]], None],
        changed: Callable[[EngineState, BaseException | None], None],
    ) -> None:
        self._load = load
        self._emit = emit
        self._changed = changed
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._main, name="mlx-engine", daemon=True)
        self._stats = EngineStats()
        self._times = StepTimes()

    @property
    def stats(self) -> EngineStats:
        """As of the last step."""
        return self._stats

    @property
    def times(self) -> StepTimes:
        return self._times

    def start(self) -> None:
        self._thread.start()

    def add(self, request: EngineRequest) -> None:
        def command(scheduler: Scheduler) -> list[TokenChunk]:
            scheduler.add(request)
            return []

        self._commands.put(command)

    def abort(self, request_id: str) -> None:
        self._commands.put(lambda scheduler: scheduler.abort(request_id))

    def swap(
        self, change: Callable[[], Drafting], done: Callable[[Drafting | Exception], None]
    ) -> None:
        """Run ``change`` on the loop's thread between two steps and tell ``done`` how it went.

        ``change`` puts another drafter into the runner, or raises and leaves the runner alone.
        """

        def command(scheduler: Scheduler) -> list[TokenChunk]:
            try:
                drafting = change()
            except Exception as error:  # noqa: BLE001 - the border: whoever asked is told
                done(error)
                return []
            scheduler.draft_anew(drafting.block_size, drafting.bytes_per_token)
            done(drafting)
            return []

        self._commands.put(command)

    def stop(self) -> None:
        """Leave the loop after the commands already queued; does not wait."""
        self._commands.put(None)

    def join(self, timeout: float) -> bool:
        """Whether the thread has ended within ``timeout`` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        state, failure = self._live()
        # Clears MLX's cache of traced graphs too. What is left of that is freed when the thread
        # ends, which takes the interpreter's lock: if the interpreter is gone by then, it aborts.
        mx.clear_streams()
        self._changed(state, failure)

    def _live(self) -> tuple[EngineState, BaseException | None]:
        """Load and run until told to stop; how it ended. Nothing is left on the device."""
        try:
            loaded = self._load()
        except BaseException as error:  # noqa: BLE001 - the border: every failure is reported
            return EngineState.FAILED, error
        scheduler = Scheduler(loaded.config, time.perf_counter, loaded.bytes_per_token)
        self._stats = scheduler.stats()
        self._changed(EngineState.READY, None)
        try:
            while self._apply_commands(scheduler):
                self._step(scheduler, loaded.runner)
        except Exception as error:  # noqa: BLE001 - the border: every live request is told
            _log.exception("the engine failed")
            self._emit(scheduler.fail_all(f"The engine failed: {error}"))
            return EngineState.FAILED, error
        finally:
            _close(loaded.runner)
        return EngineState.STOPPED, None

    def _apply_commands(self, scheduler: Scheduler) -> bool:
        """Apply what is queued, waiting only when there is nothing to run; False to stop."""
        while True:
            try:
                command = self._commands.get(block=scheduler.idle)
            except queue.Empty:
                return True
            if command is None:
                return False
            chunks = command(scheduler)
            self._stats = scheduler.stats()
            if chunks:
                self._emit(chunks)

    def _step(self, scheduler: Scheduler, runner: Runner) -> None:
        started = time.perf_counter()
        plan = scheduler.plan()
        if plan is None:
            return
        result = runner.run(plan)
        chunks = scheduler.commit(plan, result)
        self._stats = scheduler.stats()
        self._emit(chunks)
        elapsed = time.perf_counter() - started
        self._times = StepTimes(
            self._times.device + result.device_time, self._times.total + elapsed
        )


def _close(runner: Runner) -> None:
    try:
        runner.close()
    except Exception:  # noqa: BLE001 - the border: a device that failed may fail here again
        _log.exception("the device could not be let go")
