"""Another drafter takes over in mid-stream: no token changes, and its context is complete."""

import gc
import random
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.base import (
    AdapterError,
    AttentionCache,
    Draft,
    DraftAdapter,
    TargetAdapter,
)
from dflash_serve.adapters.dflash import DFlashDrafter, SlotDraft
from dflash_serve.adapters.loading import load_drafter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, SamplingParams
from tests.tiny import tiny_pair, write_drafter

BLOCK = 8
CONTEXT = 192
OTHERS: dict[str, dict[str, object]] = {
    "short block": {"block_size": 3},
    "one layer, other taps": {
        "num_hidden_layers": 1,
        "layer_types": ["full_attention"],
        "dflash_config": {"mask_token_id": 95, "target_layer_ids": [3]},
    },
    "sliding": {"layer_types": ["sliding_attention"] * 2, "sliding_window": 9},
}


@dataclass(frozen=True)
class World:
    target: TargetAdapter
    drafters: dict[str, DraftAdapter]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    directory = tmp_path_factory.mktemp("pair")
    target, first = tiny_pair(directory)
    drafters = {
        name: load_drafter(write_drafter(directory / name, seed=5, **changes), target)
        for name, changes in OTHERS.items()
    }
    return World(target, {"first": first, **drafters})


def requests(count: int, seed: int) -> list[EngineRequest]:
    """Greedy and sampled requests, short and long."""
    rng = random.Random(seed)
    return [
        EngineRequest(
            str(number),
            tuple(rng.randrange(96) for _ in range(rng.choice([1, 5, 40, 90]))),
            rng.randint(5, 50),
            SamplingParams(rng.choice([0.0, 0.7, 1.3]), seed=rng.randrange(2**60)),
        )
        for number in range(count)
    ]


@dataclass
class Swapping:
    """A scheduler and a runner whose drafter may change between any two steps.

    ``blocks`` are those of the step's round, by length and anchor.
    """

    target: TargetAdapter
    drafter: DraftAdapter | None
    batch: int
    compiled: bool = True
    chunk: int = 24
    memory_limit: int = 0
    texts: dict[str, list[int]] = field(default_factory=dict)
    blocks: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        block = min(BLOCK, self.drafter.block_size) if self.drafter else 1
        self.runner = DeviceRunner(self.target, self.drafter, block, compiled=self.compiled)
        config = EngineConfig(
            max_batch=self.batch,
            max_context=CONTEXT,
            prefill_chunk=self.chunk,
            block_size=block,
            memory_limit=self.memory_limit,
        )
        self.scheduler = Scheduler(config, lambda: 0.0, self.runner.bytes_for)

    def swap(self, drafter: DraftAdapter | None) -> None:
        block = min(BLOCK, drafter.block_size) if drafter else 1
        beside = self.runner.beside(drafter, block)
        freed = self.scheduler.make_room(block, beside.bytes_for)
        if freed is not None:
            self.runner.run(freed)
        self.runner.draft_with(drafter, block)
        self.scheduler.draft_anew(
            block, self.runner.bytes_for, shows_context=self.runner.shows_context
        )

    def add(self, work: Sequence[EngineRequest]) -> None:
        for each in work:
            self.texts[each.id] = []
            self.scheduler.add(each)

    def step(self) -> None:
        plan = self.scheduler.plan()
        assert plan is not None
        self.blocks.clear()
        self.blocks.update({(row.length, row.anchor): row.block for row in plan.decode})
        for chunk in self.scheduler.commit(plan, self.runner.run(plan)):
            self.texts[chunk.request_id].extend(chunk.tokens)

    def steps(self) -> Iterator[int]:
        """Step until all is done, giving the number of each step that was made."""
        number = 0
        while not self.scheduler.idle:
            self.step()
            yield number
            number += 1


@pytest.fixture(scope="module")
def plain(world: World) -> dict[str, list[int]]:
    made = Swapping(world.target, None, 1, compiled=False)
    made.add(requests(9, 3))
    for _ in made.steps():
        pass
    return made.texts


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("seed", [1])
def test_tokens_are_those_of_plain_decoding_whatever_is_swapped_when(
    world: World, plain: dict[str, list[int]], batch: int, seed: int
) -> None:
    rng = random.Random(seed)
    made = Swapping(world.target, world.drafters["first"], batch)
    made.add(requests(9, 3))
    names = []
    for _ in made.steps():
        if rng.random() < 0.15:
            names.append(rng.choice(["none", *world.drafters]))
            made.swap(world.drafters.get(names[-1]))
    assert len(set(names)) >= 4
    assert made.texts == plain
    assert made.scheduler.stats().drafted > 0


def test_tokens_are_the_same_when_a_dearer_drafter_puts_rows_aside(
    world: World, plain: dict[str, list[int]]
) -> None:
    """Their prompts and all that they generated are prefilled anew, and sampling goes on."""
    first = world.drafters["first"]
    longest = DeviceRunner(world.target, first, BLOCK).bytes_for(CONTEXT + BLOCK)
    made = Swapping(world.target, None, 5, memory_limit=longest)
    made.add(requests(9, 3))
    fewer = 0
    for number in made.steps():
        assert made.runner.cache_bytes <= longest
        if number % 5 == 4:
            before = made.scheduler.stats().running
            made.swap(first if number % 2 else None)
            assert made.runner.cache_bytes <= longest
            fewer += before - made.scheduler.stats().running
    assert fewer > 2
    assert made.texts == plain


Proposals = dict[tuple[int, ...], list[np.ndarray]]


class Watched:
    """A drafter that keeps the logits of what it proposes. Runs op by op.

    ``blocks`` as `Swapping.blocks`: a round pads its rows to the widest.
    """

    def __init__(self, drafter: DraftAdapter) -> None:
        assert isinstance(drafter, DFlashDrafter)
        self._drafter = drafter
        self._seen: list[tuple[tuple[int, ...], np.ndarray]] = []
        self.blocks: dict[tuple[int, int], int] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._drafter, name)

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> Draft:
        logits = self._drafter.block_logits(anchors, width, caches)
        rows = zip(caches[0].offset.tolist(), anchors.tolist(), strict=True)
        for where, row in zip(rows, np.array(logits), strict=True):
            block = self.blocks[where]
            self._seen.append(((*where, block), row[: block - 1]))
        return SlotDraft(logits)

    def proposals(self) -> Proposals:
        """By position, anchor and block: the logits there, for any request."""
        found: Proposals = {}
        for key, logits in self._seen:
            if key[2] > 1:
                found.setdefault(key, []).append(logits)
        return found


@pytest.mark.parametrize(
    ("name", "longest", "after"),
    [
        ("first", 90, 6),  # by then some rows decode and one is still prefilling
        ("one layer, other taps", 90, 6),
        ("sliding", 90, 6),
        ("sliding", 150, 13),  # longer than a ring: what is shown is written over newer tokens
    ],
)
def test_a_drafter_swapped_in_proposes_what_it_would_have_from_the_start(
    world: World, name: str, longest: int, after: int
) -> None:
    """Prompts that were prefilled, chunks that were under way and rounds that were committed."""
    drafter = world.drafters[name]
    work = [
        EngineRequest(f"{n}", tuple(token % 96 for token in range(n, n + size)), 40)
        for n, size in enumerate((3, 30, 57, longest))
    ]
    fresh, late = Watched(drafter), Watched(drafter)
    for each in work:  # alone: whatever the neighbours do
        made = Swapping(world.target, fresh, 1, compiled=False)  # type: ignore[arg-type]
        fresh.blocks = made.blocks
        made.add([each])
        for _ in made.steps():
            pass
    made = Swapping(world.target, world.drafters["short block"], 4, compiled=False)
    late.blocks = made.blocks
    made.add(work)
    for number in made.steps():
        if number == after:
            held = made.scheduler.stats().rounds
            made.swap(late)  # type: ignore[arg-type]
    assert held > 4
    expected = fresh.proposals()
    compared = [(key, row) for key, rows in late.proposals().items() for row in rows]
    assert len(compared) > 40
    assert all(any(np.array_equal(row, was) for was in expected[key]) for key, row in compared)


def test_rows_decode_plainly_until_the_new_drafter_has_seen_them(world: World) -> None:
    made = Swapping(world.target, world.drafters["first"], 2)
    made.add([EngineRequest("a", tuple(range(60)), 50), EngineRequest("b", (1, 2), 50)])
    for _ in range(6):
        made.step()
    made.swap(world.drafters["sliding"])
    made.add([EngineRequest("c", (4, 5), 2)])
    blocks, shown = [], 0
    while True:
        plan = made.scheduler.plan()
        assert plan is not None
        made.scheduler.commit(plan, made.runner.run(plan))
        if not plan.context and not plan.prefill:
            break
        assert sum(len(row.tokens) for row in plan.context) <= made.chunk
        assert all(
            row.block == 1
            for row in plan.decode
            if row.row in {shown.row for shown in plan.context}
        )
        shown += sum(len(row.tokens) for row in plan.context)
        blocks = [row.block for row in plan.decode]
    assert shown >= 62
    assert [row.block for row in plan.decode] == [BLOCK, BLOCK]
    assert blocks[-1] in (1, BLOCK)


def test_the_old_drafter_is_let_go(tmp_path: Path) -> None:
    target, old = tiny_pair(tmp_path)
    made = Swapping(target, old, 2)
    made.add(requests(2, 3))
    for _ in range(6):
        made.step()
    gone = weakref.ref(old)
    made.swap(load_drafter(tmp_path / "drafter", target))
    del old
    made.drafter = None
    gc.collect()
    assert gone() is None
    for _ in made.steps():
        pass


def test_a_drafter_of_longer_blocks_than_the_second_is_refused(
    world: World, tmp_path: Path
) -> None:
    second = load_drafter(write_drafter(tmp_path, block_size=3), world.target)
    runner = DeviceRunner(world.target, world.drafters["short block"], 3, second=second)
    with pytest.raises(AdapterError, match=r"block size is 8, but .* second drafter .* with 3"):
        runner.beside(world.drafters["first"], BLOCK)
    with pytest.raises(AdapterError, match="with 3"):
        runner.draft_with(world.drafters["first"], BLOCK)
    runner.beside(None, 1).close()
    runner.close()
