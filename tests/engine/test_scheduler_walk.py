"""Random lives of a scheduler: joins, leaves, faults and swaps, against a model of every row."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import StepPlan
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, FinishReason, TokenChunk
from tests.engine.row_model import RowModel

STOP = 9
CONTEXT = 64
BLOCK = 4


def priced(price: int) -> Callable[[int], int]:
    """What a row takes: buckets of 16 tokens, and something whatever its length."""
    return lambda tokens: 50 + price * (-(-tokens // 16) * 16)


LIMIT = 2 * priced(3)(CONTEXT + BLOCK) + 20


class Walk:
    """One random life. A request's first token is its name; ``finished`` says how each ended."""

    def __init__(self, seed: int, **limits: float) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        config = EngineConfig(
            max_batch=5, max_context=CONTEXT, prefill_chunk=8, block_size=BLOCK, **limits
        )
        self.chunk = config.prefill_chunk
        self.scheduler = Scheduler(config, lambda: self.now, priced(3))
        self.texts: dict[int, list[int]] = {}
        self.finished: dict[int, FinishReason] = {}
        self.limit = config.memory_limit
        self.most = 0
        self.device = RowModel(self.texts.__getitem__, priced(3), BLOCK)

    def add(self) -> None:
        first = 1000 + len(self.texts)
        length = self.rng.choice([0, 2, 5, 29, 50])
        prompt = (first, *(self.rng.randrange(100, 200) for _ in range(length)))
        self.texts[first] = list(prompt)
        request = EngineRequest(
            str(first), prompt, self.rng.randint(1, 25), stop_tokens=frozenset({STOP})
        )
        if self.rng.random() < 0.5:
            self.device.specs.add(first)
            request = replace(request, logprobs=0)
        self.scheduler.add(request)

    def abort(self) -> None:
        """Mostly of a request that lives."""
        if self.texts:
            live = self.texts.keys() - self.finished.keys()
            one_of = sorted(live) if live and self.rng.random() < 0.8 else list(self.texts)
            self.take(self.scheduler.abort(str(self.rng.choice(one_of))))

    def step(self) -> None:
        plan = self.scheduler.plan()
        if plan is None:
            return
        self.check(plan)
        result = self.device.run(plan, self.rng)
        self.measure()
        self.now += self.rng.random()
        self.take(self.scheduler.commit(plan, result))

    def fail_step(self) -> None:
        """A step raises, after which some of its rows are to blame."""
        plan = self.scheduler.plan()
        if plan is None:
            return
        decode = tuple(row for row in plan.decode if self.rng.random() < 0.5)
        prefill = tuple(row for row in plan.prefill if self.rng.random() < 0.5)
        self.device.reset()
        blamed = replace(plan, decode=decode, prefill=prefill, context=())
        chunks = self.scheduler.recover(blamed, "the step failed")
        assert {(c.finish, c.error) for c in chunks} <= {(FinishReason.ERROR, "the step failed")}
        assert len(chunks) == len(decode) + len(prefill)
        self.take(chunks)

    def swap(self) -> None:
        block, row_bytes = self.rng.choice([1, 2, BLOCK]), priced(self.rng.randint(1, 5))
        freed = self.scheduler.make_room(block, row_bytes)
        if freed is not None:
            self.device.run(freed, self.rng)
        self.device.swap(block, row_bytes)
        self.measure()
        self.scheduler.draft_anew(block, row_bytes)

    def measure(self) -> None:
        self.most = max(self.most, self.device.nbytes)
        assert not self.limit or self.most <= self.limit

    def check(self, plan: StepPlan) -> None:
        rows = plan.prefill or plan.context
        assert len(rows) * max((len(row.tokens) for row in rows), default=0) <= self.chunk
        assert plan.closed or rows or plan.decode, "a step has work"

    def take(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            first = int(chunk.request_id)
            assert first not in self.finished
            self.texts[first].extend(chunk.tokens)
            if chunk.finish is not None:
                self.finished[first] = chunk.finish
                assert chunk.usage is not None

    def drain(self) -> None:
        for _ in range(5_000):
            if self.scheduler.idle:
                return
            self.step()
        raise AssertionError("some request never ends")

    def live(self, events: dict[Callable[["Walk"], None], float], steps: int = 150) -> None:
        for _ in range(steps):
            for event, chance in events.items():
                if self.rng.random() < chance:
                    event(self)
            self.step()
        self.drain()


def assert_all_ended(walk: Walk) -> None:
    assert walk.finished.keys() == walk.texts.keys()
    assert walk.device.rows == {}, "no row is left behind"
    stats = walk.scheduler.stats()
    assert (stats.running, stats.waiting, stats.free_slots) == (0, 0, stats.slots)
    assert stats.finished_requests == len(walk.finished)


@pytest.mark.parametrize("seed", range(40))
def test_every_request_ends_once_whatever_happens(seed: int) -> None:
    walk = Walk(seed)
    walk.live({Walk.add: 0.3, Walk.abort: 0.1, Walk.fail_step: 0.05, Walk.swap: 0.05})
    assert_all_ended(walk)
    assert len(set(walk.finished.values())) >= 3, "of stopped, full length, aborted and failed"


@pytest.mark.parametrize("seed", range(40))
def test_caches_never_take_more_than_the_memory_limit(seed: int) -> None:
    walk = Walk(seed, memory_limit=LIMIT)
    walk.live({Walk.add: 0.4, Walk.abort: 0.05, Walk.fail_step: 0.03, Walk.swap: 0.05})
    assert_all_ended(walk)
    assert walk.most > LIMIT // 2, "the limit was worth testing"
