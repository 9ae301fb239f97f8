"""Every family of `FAMILIES`: speculative text is plain text, and plain text is mlx-lm's."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.cache_spec import StateSpec
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.compose.trees import tree_kinds
from dflash_serve.engine.cache.pool import DRAFTER, TARGET, CachePool
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.rounds import RoundRows, Rounds, RoundShape
from dflash_serve.engine.types import EngineRequest, EngineStats, FinishReason, SamplingParams
from tests import tiny
from tests.adapters.caches import held
from tests.adapters.families import FAMILIES, Family
from tests.adapters.upstream import Upstream
from tests.engine.branching import BranchingDrafter, Texts
from tests.engine.driving import Drafting, Driving
from tests.engine.scripted import ScriptedDrafter

VOCAB = 96
LONGEST = 22
"""Tokens of the longest answers."""
PROMPTS = (1, 24, 48, 72, 96, 120, 144, 168)
"""Tokens of each request's prompt. No two requests generate a token at the same position, so that a
position alone tells a scripted drafter what comes next. One answer crosses the end of a ring.
"""
RING = 128
"""Places of the engine's ring for a window of `tests.tiny.WINDOW` tokens."""
CONTEXT = PROMPTS[-1] + LONGEST
SAMPLINGS = (
    SamplingParams(),
    SamplingParams(temperature=0.7, seed=5),
    SamplingParams(),
    SamplingParams(temperature=1.0, top_p=0.9, seed=-6),
    SamplingParams(temperature=1.2, top_k=12, seed=7),
    SamplingParams(),
    SamplingParams(temperature=0.8, min_p=0.05, seed=8),
    SamplingParams(),
)
DRAFTERS = {"oracle": 1.0, "random": 0.7, "adversary": 0.0}
"""How often each is right. All three are in every batch, each for requests of its own."""
BLOCKS = (16, 5, 2, 8, 3, 12, 4, 7)
TREES = ((8, 24), (3, 5), (16, 64), (16, 8), (5, 12), (2, 3))
"""Blocks and nodes: the longest path of a tree, and its size."""


@dataclass(frozen=True, slots=True)
class Run:
    """``asked``: numbers of requests, which join as chunks and rows of the batch come free.

    ``swaps``: the drafter changes in mid-stream. ``cancelled``: a request that leaves when it has
    some tokens.
    """

    batch: int
    asked: tuple[int, ...]
    chunk: int
    swaps: bool = False
    cancelled: int = -1


RUNS = (
    Run(1, (3, 5, 1), 48),
    Run(3, (0, 5, 2, 7, 4), 24, swaps=True),
    Run(8, (7, 5, 1, 2, 6, 3, 0, 4), 96, cancelled=3),
)


@dataclass(frozen=True)
class World:
    """A family's target, two different drafters for it, and the plain texts of `requests`."""

    family: Family
    number: int
    directory: Path
    target: TargetAdapter
    drafters: tuple[DraftAdapter, DraftAdapter]
    plain: list[list[int]]

    @property
    def recurs(self) -> bool:
        return any(isinstance(spec, StateSpec) for spec in self.target.cache_specs)

    def drafting(self, turn: int, drafter: int = 0) -> Drafting:
        """A scripted drafter and a block, which turn with a number."""
        rng = random.Random(turn)
        chances = list(DRAFTERS.values())
        script = [0] * (CONTEXT + max(BLOCKS))
        for number, (size, text) in enumerate(zip(PROMPTS, self.plain, strict=True)):
            chance = chances[(number + turn) % len(chances)]
            script[size : size + len(text)] = [
                token if rng.random() < chance else (token + 1) % VOCAB for token in text
            ]
        table = mx.array(script, dtype=mx.int32)
        scripted = ScriptedDrafter(
            self.drafters[drafter], lambda drafts, positions, anchors: table[positions]
        )
        return Drafting(scripted, BLOCKS[turn % len(BLOCKS)])  # type: ignore[arg-type]

    def branching(self, turn: int) -> Drafting:
        """A drafter of trees, with a block and a number of nodes that turn with a number."""
        asked = zip(requests(), self.plain, strict=True)
        texts = Texts.of([(*one.prompt, *text) for one, text in asked], CONTEXT, VOCAB, turn)
        drafter = BranchingDrafter(self.drafters[0], texts)
        block, nodes = TREES[turn % len(TREES)]
        return Drafting(drafter, block, nodes)  # type: ignore[arg-type]


def requests() -> list[EngineRequest]:
    """Greedy and sampled ones, all of `LONGEST` tokens."""
    rng = random.Random(1)
    return [
        EngineRequest(
            str(number), tuple(rng.randrange(VOCAB) for _ in range(size)), LONGEST, sampling
        )
        for number, (size, sampling) in enumerate(zip(PROMPTS, SAMPLINGS, strict=True))
    ]


def written_drafter(directory: Path, target: TargetAdapter, seed: int, taps: list[int]) -> Path:
    """A random drafter of one layer, of any family's sizes."""
    return tiny.write_drafter(
        directory,
        seed,
        hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        num_target_layers=target.num_layers,
        num_hidden_layers=1,
        layer_types=["full_attention"],
        dflash_config=tiny.DRAFTER["dflash_config"] | {"target_layer_ids": taps},
    )


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    family, directory = FAMILIES[request.param], tmp_path_factory.mktemp("family")
    number = list(FAMILIES).index(request.param)
    checkpoint = family.write(directory / "target")
    target = load_target(checkpoint)
    first, other = (
        load_drafter(written_drafter(directory / str(seed), target, seed, taps), target)
        for seed, taps in ((1, [0, target.num_layers - 1]), (2, [1]))
    )
    plain = Driving(target, Drafting(), len(PROMPTS), CONTEXT, chunk=512, compiled=False)
    for each in requests():
        plain.add(each)
    while not plain.idle:
        plain.step()
    return World(family, number, checkpoint, target, (first, other), list(plain.texts.values()))


def test_plain_text_is_that_of_mlx_lm(world: World) -> None:
    """Token by token, of a prompt within a window and of one beyond it."""
    upstream = Upstream(world.directory, world.family.left_out)
    texts = [world.plain[number] for number in (0, 5)]
    for request, text in zip((requests()[number] for number in (0, 5)), texts, strict=True):
        assert request.sampling.greedy
        assert upstream.generate(list(request.prompt), LONGEST, VOCAB) == text
    assert len({*texts[0], *texts[1]}) > 4, "texts that say nothing prove nothing"


def test_speculative_text_is_plain_text(world: World) -> None:
    """With drafters that are always, now and then and never right, while rows join and leave."""
    first = world.number % len(RUNS)
    for run in RUNS[first : first + 1] if world.family.alike else RUNS:
        turn = world.number + 3 * RUNS.index(run)
        other = world.drafting(turn + 1, drafter=1) if run.swaps else None
        stats = compare(world, run, world.drafting(turn), other)
        assert 0 < stats.accepted < stats.drafted


def test_text_from_trees_is_plain_text(world: World) -> None:
    """Right tokens hide among wrong siblings. A state follows one path: refused by name."""
    if world.recurs:
        with pytest.raises(OptionsError, match="--tree is 8, but the target has recurrent layers"):
            tree_kinds(EngineOptions(tree="8"), world.target)
        return
    run = RUNS[world.number % len(RUNS)]
    stats = compare(world, run, world.branching(world.number))
    assert 0 < stats.accepted < stats.drafted


def compare(
    world: World, run: Run, drafting: Drafting, other: Drafting | None = None
) -> EngineStats:
    """Run the requests, with another drafter from the first one's end on, and compare all."""
    asked = [ended_somewhere(requests()[number], world.plain[number]) for number in run.asked]
    driving = Driving(world.target, drafting, run.batch, CONTEXT, run.chunk, compiled=False)
    for request in asked:
        driving.add(request)
    most = 0
    for _ in steps(driving, str(run.cancelled)):
        most = max(most, driving.stats.running)
        if other is not None and driving.finishes:
            driving.swap(other)
            other = None
    assert most == run.batch, run
    assert other is None
    assert driving.rows == 0
    for request in asked:
        text, reason = cut(world.plain[int(request.id)], request)
        got = driving.texts[request.id]
        if request.id == str(run.cancelled):
            assert 0 < len(got) < len(text)
            text, reason = text[: len(got)], FinishReason.ABORTED
        assert (got, driving.finishes[request.id]) == (text, reason), (run, request.id)
    return driving.stats


def test_caches_after_rounds_are_those_of_a_fresh_run(world: World) -> None:
    """Every array of every layer of both models, bit for bit, whatever was rejected before.

    But for a tree across the end of a ring, whose keys are added up in another order than those of
    a text: there the runner drafts chains.
    """
    slides = any(getattr(spec, "window", None) is not None for spec in world.target.cache_specs)
    trees = [] if world.recurs else [world.branching(world.number)]
    for drafting in (world.drafting(world.number), *trees):
        rows, fresh, prompts = after_rounds(world, drafting)
        for row, size in enumerate(prompts):
            if drafting.nodes and slides and size < RING < size + LONGEST:
                continue
            for mine, theirs in zip(rows.held(row), fresh.held(row), strict=True):
                assert mx.array_equal(mine, theirs).item(), (drafting, row)


def after_rounds(world: World, drafting: Drafting) -> tuple["Rows", "Rows", list[int]]:
    """Rows after two rounds, rows that were given the same tokens, and their prompts' lengths."""
    numbers = [number for number, one in enumerate(SAMPLINGS) if one.greedy]
    prompts = [requests()[number].prompt for number in numbers]
    texts = [world.plain[number] for number in numbers]
    rows, fresh = (Rows(world.target, drafting) for _ in range(2))
    rows.prefill(prompts)
    at = [0] * len(texts)
    for block in (drafting.block,) * 2 if drafting.nodes else (8, 5):
        counts = rows.round([text[i] for text, i in zip(texts, at, strict=True)], block)
        at = [i + count for i, count in zip(at, counts, strict=True)]
    assert max(at) > 2, "nothing was accepted"
    known = zip(prompts, texts, at, strict=True)
    fresh.prefill([(*prompt, *text[:i]) for prompt, text, i in known])
    return rows, fresh, list(map(len, prompts))


class Rows:
    """Rows in the caches of a target and a drafter, driven by hand."""

    def __init__(self, target: TargetAdapter, drafting: Drafting) -> None:
        assert drafting.drafter is not None
        self._specs = {TARGET: target.cache_specs, DRAFTER: drafting.drafter.cache_specs}
        self._nodes = drafting.nodes
        self._pool = CachePool(self._specs)
        drafters = {DRAFTER: drafting.drafter}
        self._rounds = Rounds(target, drafters, self._pool.models, compiled=False)
        self._lengths: list[int] = []

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        for row, prompt in enumerate(prompts):
            size = len(prompt)
            self._pool.reserve(row, size)
            span = Span(mx.array([0]), mx.array([size]), size, (size,))
            forward = self._rounds.forward(mx.array([prompt]), span, self._pool.take([row]))
            self._pool.put([row], forward.commit(span.lengths))
            self._pool.settle({row: 0})
            self._lengths.append(size)

    def round(self, anchors: Sequence[int], block: int) -> list[int]:
        """One for all rows, which are greedy: how many tokens each of them commits."""
        numbers = list(range(len(anchors)))
        for row in numbers:
            self._pool.reserve(row, self._lengths[row] + max(block, self._nodes))
        capacities = tuple(map(self._pool.capacity, numbers))
        shape = RoundShape(block, capacities, draft=True, nodes=self._nodes)
        arrays = (anchors, self._lengths, [block] * len(numbers))
        rows = RoundRows(*(mx.array(array, dtype=mx.int32) for array in arrays))
        verdict, caches = self._rounds.run(shape, rows, (), self._pool.take(numbers))
        self._pool.put(numbers, caches)
        self._pool.settle(dict(enumerate(self._lengths)))
        counts = [len(tokens) for tokens in verdict.tokens()]
        self._lengths = [size + more for size, more in zip(self._lengths, counts, strict=True)]
        return counts

    def held(self, row: int) -> list[mx.array]:
        """All that a row holds in both models."""
        caches = self._pool.take([row])
        self._pool.put([row], caches)
        return [
            array
            for model, specs in self._specs.items()
            for array in held(specs, caches[model][0], self._lengths[row])
        ]


def ended_somewhere(request: EngineRequest, text: list[int]) -> EngineRequest:
    """A request for all of its text, for less of it, or up to a token within it."""
    number = int(request.id)
    if number % 4 == 1:
        return replace(request, max_tokens=LONGEST - number)
    if number % 4 == 2:
        return replace(request, stop_tokens=frozenset({text[LONGEST // 2 + number], VOCAB - 1}))
    return request


def cut(text: list[int], request: EngineRequest) -> tuple[list[int], FinishReason]:
    """What a request gets of its plain text, and why no more."""
    for index, token in enumerate(text[: request.max_tokens]):
        if token in request.stop_tokens:
            return text[:index], FinishReason.STOP
    return text[: request.max_tokens], FinishReason.LENGTH


def steps(driving: Driving, cancelled: str) -> Iterator[None]:
    """Until all requests have ended, one of them cancelled on the way."""
    while not driving.idle:
        driving.step()
        if len(driving.texts.get(cancelled, ())) > 3:
            driving.cancel(cancelled)
        yield
