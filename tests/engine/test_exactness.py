"""Speculative output equals plain decoding token for token, whatever the batch does."""

import random
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import DraftAdapter, FillingDrafter, TargetAdapter
from dflash_serve.adapters.loading import load_drafter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, EngineStats, SamplingParams
from tests.engine.branching import BranchingDrafter, Texts
from tests.engine.scripted import ScriptedDrafter
from tests.tiny import DFLASH2, MISTRAL, QWEN3_5, tiny_pair, write_drafter

Pair = tuple[TargetAdapter, DraftAdapter]
CONTEXT = 192
COUNT = 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return tiny_pair(tmp_path_factory.mktemp("pair"))


def requests(count: int, seed: int) -> list[EngineRequest]:
    """Greedy and sampled requests with stop tokens; some run into the context's end."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        sampling = SamplingParams(
            temperature=rng.choice([0.0, 0.0, 0.7, 1.3]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 12]),
            min_p=rng.choice([0.0, 0.05]),
            seed=rng.randrange(-(2**63), 2**63),
        )
        prompt = tuple(rng.randrange(96) for _ in range(rng.choice([1, 5, 17, 60, 170])))
        stops = frozenset(rng.sample(range(96), rng.choice([0, 2])))
        made.append(EngineRequest(str(number), prompt, rng.randint(1, 40), sampling, stops))
    return made


def generate(
    pair: tuple[TargetAdapter, DraftAdapter | None],
    work: Sequence[EngineRequest],
    *,
    block: int,
    batch: int,
    compiled: bool = True,
    chunk: int = 32,
    late: int = 0,
    cancel: float = 0.0,
    nodes: int = 0,
    second: FillingDrafter | None = None,
) -> tuple[dict[str, list[int]], set[str], EngineStats]:
    """Run requests to the end; ``late`` of them join one by one, ``cancel`` of them are aborted.

    Returns texts, names of aborted requests, and the engine's totals.
    """
    rng = random.Random(5)
    runner = DeviceRunner(pair[0], pair[1], block, second=second, compiled=compiled)
    config = EngineConfig(
        max_batch=batch,
        max_context=CONTEXT,
        prefill_chunk=chunk,
        block_size=block,
        tree_nodes=(nodes,),
    )
    scheduler = Scheduler(config, lambda: 0.0)
    texts: dict[str, list[int]] = {request.id: [] for request in work}
    aborted: set[str] = set()
    waiting = list(work)
    while waiting or not scheduler.idle:
        while waiting and (len(waiting) > late or rng.random() < 0.3):
            scheduler.add(waiting.pop(0))
        if rng.random() < cancel:
            scheduler.abort(name := rng.choice(list(texts)))
            aborted.add(name)
        plan = scheduler.plan()
        if plan is None:
            continue
        for chunk_ in scheduler.commit(plan, runner.run(plan)):
            texts[chunk_.request_id].extend(chunk_.tokens)
    return texts, aborted, scheduler.stats()


@pytest.fixture(scope="module")
def oracle(pair: Pair) -> dict[str, list[int]]:
    return generate((pair[0], None), requests(COUNT, 3), block=1, batch=1, compiled=False)[0]


@pytest.mark.parametrize(
    ("block", "batch", "compiled"),
    [(2, 3, False), (2, 8, True), (8, 1, True), (16, 8, False)],
)
def test_tokens_are_those_of_plain_decoding(
    pair: Pair, oracle: dict[str, list[int]], block: int, batch: int, compiled: bool
) -> None:
    work = requests(COUNT, 3)
    texts, _, stats = generate(pair, work, block=block, batch=batch, compiled=compiled)
    assert texts == oracle
    assert stats.drafted > 0
    assert stats.free_slots == batch


@pytest.mark.parametrize("block", [1, 8])
def test_cancels_and_late_joins_leave_the_neighbours_alone(
    pair: Pair, oracle: dict[str, list[int]], block: int
) -> None:
    texts, aborted, _ = generate(
        pair, requests(COUNT, 3), block=block, batch=4, late=9, cancel=0.1, chunk=16
    )
    assert aborted
    for name, tokens in texts.items():
        expected = oracle[name]
        assert tokens == (expected[: len(tokens)] if name in aborted else expected)


def test_an_oracle_drafter_fills_every_block_and_an_adversary_none(pair: Pair) -> None:
    prompt, limit = tuple(range(10)), 65
    request = EngineRequest("a", prompt, limit)
    plain = generate((pair[0], None), [request], block=1, batch=1)[0]["a"]
    table = mx.array([*prompt, *plain, *[0] * 32], dtype=mx.int32)

    right = ScriptedDrafter(pair[1], lambda drafts, positions, anchors: table[positions])
    texts, _, stats = generate((pair[0], right), [request], block=8, batch=1)  # type: ignore[arg-type]
    assert texts["a"] == plain
    assert stats.rounds == 8  # 64 tokens after the first, 8 a round
    assert stats.accepted == stats.drafted == 56

    wrong = ScriptedDrafter(pair[1], lambda drafts, positions, anchors: (table[positions] + 1) % 96)
    texts, _, stats = generate((pair[0], wrong), [request], block=8, batch=1)  # type: ignore[arg-type]
    assert texts["a"] == plain
    assert (stats.rounds, stats.accepted) == (64, 0)


def test_acceptance_does_not_depend_on_the_neighbours(pair: Pair) -> None:
    """Rows alone and in a batch take the same rounds: no clamp to the slowest row."""
    table = mx.array(random.Random(1).choices(range(96), k=CONTEXT + 16), dtype=mx.int32)

    def script(drafts: mx.array, positions: mx.array, anchors: mx.array) -> mx.array:
        return mx.where(positions % 3 == 0, table[positions], drafts)

    drafter = ScriptedDrafter(pair[1], script)
    work = [request for request in requests(12, 8) if not request.stop_tokens]
    both = (pair[0], drafter)
    alone = [generate(both, [request], block=8, batch=1)[2] for request in work]  # type: ignore[arg-type]
    together = generate(both, work, block=8, batch=8)[2]  # type: ignore[arg-type]
    assert together.rounds == sum(stats.rounds for stats in alone)
    assert together.accepted == sum(stats.accepted for stats in alone)


@pytest.mark.parametrize(
    "drafter",
    [
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 9},
        {"layer_types": ["sliding_attention"] * 2, "sliding_window": 4, "is_causal": False},
        {"dflash_config": {"mask_token_id": 95, "target_layer_ids": [3], "causal_head": True}},
        DFLASH2,
    ],
)
def test_every_kind_of_drafter_is_exact(
    tmp_path: Path, oracle: dict[str, list[int]], drafter: dict[str, object]
) -> None:
    texts, _, _ = generate(tiny_pair(tmp_path, None, drafter), requests(COUNT, 3), block=8, batch=3)
    assert texts == oracle


FAMILIES: dict[str, dict[str, object]] = {
    "sliding window": {"base": MISTRAL, "sliding_window": 40},
    "recurrent": {"base": QWEN3_5},
}


@pytest.fixture(scope="module")
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pair, dict[str, list[int]]]:
    """A pair whose caches cannot simply be cut, and its plain texts."""
    pair = tiny_pair(tmp_path_factory.mktemp("family"), FAMILIES[request.param])
    work = requests(COUNT, 3)
    return pair, generate((pair[0], None), work, block=1, batch=1, compiled=False)[0]


@pytest.mark.parametrize(
    ("family", "block", "batch"),
    [
        ("sliding window", 2, 1),
        ("sliding window", 8, 8),
        ("recurrent", 1, 5),
        ("recurrent", 2, 1),
        ("recurrent", 16, 3),
    ],
    indirect=["family"],
)
def test_every_kind_of_cache_is_exact(
    family: tuple[Pair, dict[str, list[int]]], block: int, batch: int
) -> None:
    """Across the window's wrap, with rejected drafts, cancels and late joins."""
    pair, plain = family
    texts, aborted, stats = generate(
        pair, requests(COUNT, 3), block=block, batch=batch, late=8, cancel=0.02
    )
    assert stats.accepted > 0 or block == 1
    for name, tokens in texts.items():
        assert tokens == (plain[name][: len(tokens)] if name in aborted else plain[name])


def test_the_chunk_size_of_prefill_changes_nothing(
    pair: Pair, oracle: dict[str, list[int]]
) -> None:
    work = requests(COUNT, 3)[:5]
    assert max(len(request.prompt) for request in work) == 170
    for chunk in (3, 7, 512):
        for name, tokens in generate(pair, work, block=4, batch=5, chunk=chunk)[0].items():
            assert tokens == oracle[name]


def test_sampled_text_depends_on_the_seed_alone(pair: Pair) -> None:
    def sample(seed: int, block: int) -> list[int]:
        params = SamplingParams(temperature=1.5, seed=seed)
        request = EngineRequest("a", (1, 2, 3), 30, params)
        return generate(pair, [request], block=block, batch=1)[0]["a"]

    assert sample(11, 8) == sample(11, 1) == sample(11, 4)
    assert sample(11, 8) != sample(12, 8)


@pytest.fixture(scope="module")
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pair, dict[str, list[int]]]:
    """A pair and its plain texts, which drafters are told of."""
    changes = FAMILIES.get(request.param, {})
    pair = tiny_pair(tmp_path_factory.mktemp("told"), changes)
    return pair, generate((pair[0], None), requests(COUNT, 3), block=1, batch=8)[0]


def knowing(pair: Pair, plain: dict[str, list[int]], seed: int) -> Pair:
    """The pair with a drafter that hides the right tokens among wrong siblings."""
    known = [(*request.prompt, *plain[request.id]) for request in requests(COUNT, 3)]
    drafter = BranchingDrafter(pair[1], Texts.of(known, CONTEXT, 96, seed=seed))
    return pair[0], drafter  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("told", "block", "batch", "nodes", "compiled"),
    [
        ("full attention", 2, 1, 4, False),
        ("full attention", 5, 3, 33, False),
        ("full attention", 8, 8, 24, True),
        ("full attention", 16, 3, 64, False),
        ("sliding window", 8, 8, 24, True),
        ("sliding window", 16, 3, 64, False),
    ],
    indirect=["told"],
)
def test_trees_are_exact(
    told: tuple[Pair, dict[str, list[int]]], block: int, batch: int, nodes: int, compiled: bool
) -> None:
    """Across the window's wrap, cancels and late joins."""
    pair, plain = told
    work, both = requests(COUNT, 3), knowing(pair, plain, nodes)
    texts, aborted, stats = generate(
        both,
        work,
        block=block,
        batch=batch,
        nodes=nodes,
        compiled=compiled,
        late=8,
        cancel=0.01,
    )
    for name, tokens in texts.items():
        assert tokens == (plain[name][: len(tokens)] if name in aborted else plain[name])
    assert stats.accepted > 0.3 * stats.rounds
    chains = generate(both, work, block=block, batch=8, compiled=compiled)[2]
    assert stats.accepted / stats.rounds > chains.accepted / chains.rounds


@pytest.mark.parametrize(
    ("told", "block", "batch", "nodes"),
    [("full attention", 5, 3, 16), ("sliding window", 8, 1, 24)],
    indirect=["told"],
)
def test_a_second_drafter_is_exact(
    told: tuple[Pair, dict[str, list[int]]], tmp_path: Path, block: int, batch: int, nodes: int
) -> None:
    """Other layers are tapped for it than for the first; its own caches slide."""
    pair, plain = told
    changes = {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 20,
        "dflash_config": {"mask_token_id": 95, "target_layer_ids": [0, 2]},
    }
    second = load_drafter(write_drafter(tmp_path / "second", seed=4, **changes), pair[0])
    texts, aborted, stats = generate(
        knowing(pair, plain, nodes),
        requests(COUNT, 3),
        block=block,
        batch=batch,
        nodes=nodes,
        second=second,
        late=6,
        cancel=0.01,
        compiled=False,
    )
    for name, tokens in texts.items():
        assert tokens == (plain[name][: len(tokens)] if name in aborted else plain[name])
    assert stats.accepted > 0
