"""The device fails at every point of a step or a swap, 40 times or more per kind of target."""

import gc
import logging
import queue
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine import rounds
from dflash_serve.engine.cache.pool import CachePool
from dflash_serve.engine.cache.state import StateView
from dflash_serve.engine.client import EngineState
from dflash_serve.engine.commands import (
    Add,
    Changed,
    Emitted,
    Event,
    Loaded,
    NewDrafter,
    Open,
    Stop,
    Swap,
    Swapped,
)
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.loop import EngineLoop
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, FinishReason, LogitRules, SamplingParams
from tests.tiny import QWEN3_5, tiny_pair

BLOCK, CONTEXT, FAULTS, LOAD = 4, 192, 24, 6
CHANCES = {
    "draft": 0.15,
    "context": 0.12,
    "verify": 0.015,
    "logits": 0.025,
    "scan": 0.1,
    "growth": 0.005,
    "sync": 0.02,
    "takeover": 0.7,
    "states": 0.006,
}
"""How likely each point fails when it is passed, so that all of them fail about as often."""
POINTS = ("draft", "context", "verify", "logits", "scan", "growth", "sync", "takeover")
TARGETS = {"attention": ({}, POINTS), "states": ({"base": QWEN3_5}, (*POINTS, "states"))}
"""Changes of the target, and where its steps can fail."""


class Faults:
    """Raises now and then where a step passes by. Lives on the engine's thread."""

    def __init__(self, points: tuple[str, ...]) -> None:
        self._rng = random.Random(7)
        self._points = set(points)
        self.armed = False
        self.raised: list[str] = []

    @property
    def enough(self) -> bool:
        """Whether every point has failed, and often enough."""
        return len(self.raised) >= FAULTS and self._points <= set(self.raised)

    def at(self, point: str) -> None:
        over = not self.armed or self.enough
        over = over or self.raised[-1:] == [point] == ["takeover"]  # twice on end is for good
        if not over and self._rng.random() < CHANCES[point]:
            self.raised.append(point)
            raise self._rng.choice([ValueError, RuntimeError, KeyError])(f"at {point}")

    def before(self, point: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **more: Any) -> Any:
            self.at(point)
            return call(*args, **more)

        return failing


class Failing:
    """An adapter some of whose methods fail."""

    def __init__(self, adapter: object, faults: Faults, points: dict[str, str]) -> None:
        self._adapter = adapter
        self._failing = {
            name: faults.before(point, getattr(adapter, name)) for name, point in points.items()
        }

    def __getattr__(self, name: str) -> Any:
        return self._failing.get(name) or getattr(self._adapter, name)


class Clock:
    """An hour passes at every look: failures are never close together."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        self._now += 3600.0
        return self._now


class Watched(DeviceRunner):
    """Knows how many rows had caches at most."""

    most_rows = 0

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        result = super().run(plan, meanwhile)
        self.most_rows = max(self.most_rows, self.rows)
        return result


def requests() -> list[EngineRequest]:
    rng = random.Random(3)
    return [
        EngineRequest(
            f"{number}",
            tuple(rng.randrange(96) for _ in range(rng.choice([1, 5, 40, 90]))),
            rng.randint(5, 60),
            SamplingParams(rng.choice([0.0, 0.9]), seed=rng.randrange(2**60)),
            rules=LogitRules(frequency=rng.choice([0.0, 0.4])),
        )
        for number in range(12)
    ]


def plain_texts(target: TargetAdapter) -> dict[str, list[int]]:
    """One request after the other, without a drafter."""
    runner = DeviceRunner(target, None, 1, compiled=False)
    scheduler = Scheduler(EngineConfig(max_batch=1, max_context=CONTEXT), lambda: 0.0)
    texts: dict[str, list[int]] = {}
    for request in requests():
        scheduler.add(request)
        texts[request.id] = []
        while (plan := scheduler.plan()) is not None:
            for chunk in scheduler.commit(plan, runner.run(plan)):
                texts[request.id] += chunk.tokens
    return texts


def failing_runner(
    pair: tuple[TargetAdapter, DraftAdapter], faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> tuple[Watched, tuple[NewDrafter, NewDrafter]]:
    """The real one and drafters for it, with faults around everything that a step calls."""
    target = Failing(pair[0], faults, {"forward": "verify", "logits": "logits"})
    drafter = Failing(pair[1], faults, {"draft": "draft", "append_context": "context"})
    scan = faults.before("scan", rounds.acceptance_scan)
    monkeypatch.setattr(rounds, "acceptance_scan", scan)
    monkeypatch.setattr(CachePool, "reserve", faults.before("growth", CachePool.reserve))
    monkeypatch.setattr(CachePool, "arrays", faults.before("sync", CachePool.arrays))
    monkeypatch.setattr(CachePool, "replace", faults.before("takeover", CachePool.replace))
    monkeypatch.setattr(StateView, "commit", faults.before("states", StateView.commit))
    drafters = NewDrafter(drafter, BLOCK), NewDrafter(None, 1)  # type: ignore[arg-type]
    return Watched(target, drafter, BLOCK), drafters  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TARGETS)
def test_every_request_ends_and_its_text_is_right(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, points = TARGETS[kind]
    # a kept record would keep a traceback, and that the arrays of its frames
    monkeypatch.setattr(logging.getLogger("dflash_serve.engine"), "disabled", True)
    pair = tiny_pair(tmp_path, changes)
    expected = plain_texts(pair[0])
    gc.collect()
    held = mx.get_active_memory()
    faults = Faults(points)
    runner, drafters = failing_runner(pair, faults, monkeypatch)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    loop = EngineLoop(events.put, Clock())
    loop.start()
    config = EngineConfig(max_batch=4, max_context=CONTEXT, prefill_chunk=24, block_size=BLOCK)
    loop.put(Open(Loaded(runner, config)))
    assert events.get(timeout=60) == Changed(EngineState.READY)
    faults.armed = True
    pool, texts, ends, swaps, sent = requests(), {}, {}, [], 0
    while not faults.enough or len(ends) < sent:
        while sent - len(ends) < LOAD and not faults.enough:
            request = pool[sent % len(pool)]
            loop.put(Add(replace(request, id=f"{sent} {request.id}")))
            sent += 1
            if sent % 7 == 0:
                loop.put(Swap(sent, drafters[sent // 7 % 2]))
        event = events.get(timeout=60)
        if isinstance(event, Swapped):
            swaps.append(event.failure is None)
            continue
        assert isinstance(event, Emitted), event
        for chunk in event.chunks:
            assert chunk.request_id not in ends
            texts.setdefault(chunk.request_id, []).extend(chunk.tokens)
            if chunk.finish is not None:
                ends[chunk.request_id] = chunk.finish
    assert set(faults.raised) == set(points)
    assert set(swaps) == {True, False}
    assert set(ends.values()) == {FinishReason.LENGTH, FinishReason.ERROR}
    for name, end in ends.items():
        whole = expected[name.split()[1]]
        assert texts[name] == (whole if end is FinishReason.LENGTH else whole[: len(texts[name])])
    loop.put(Stop())
    assert loop.join(60)
    assert runner.most_rows == config.max_batch
    assert runner.rows == runner.cache_bytes == 0
    gc.collect()
    assert mx.get_active_memory() - held < 4096
