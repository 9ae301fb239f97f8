"""Rows with bias, penalties, grammars, budgets and log-probabilities, mixed in one batch.

Their tokens are those of plain decoding, whatever the drafter, the block and the neighbours.
"""

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.grammar import (
    from_choices,
    from_json_schema,
    from_lark,
    from_regex,
)
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    LogitRules,
    SamplingParams,
    ThinkingRule,
    TokenChunk,
    TokenLogprob,
)
from tests.engine.branching import BranchingDrafter
from tests.engine.branching import Texts as Known
from tests.engine.letters import END, THINK, THOUGHT, VOCAB, compiler
from tests.engine.scripted import ScriptedDrafter
from tests.tiny import DFLASH2, QWEN3_5, tiny_pair

CONTEXT = 256
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"enum": ["true", "false", "null"]},
        "flag": {"type": "boolean"},
        "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["name", "flag", "list"],
    "additionalProperties": False,
}
SOURCES = [
    from_json_schema(SCHEMA),
    from_regex("[a-f]{3,9}(-[0-9]{2,4})*"),
    from_choices(["falsefalse", "falsetrue", "nullnull"]),
    from_lark('start: "true" (item)+ "!"\nitem: /[x-z]/ | "false"'),
]
Texts = dict[str, list[int]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[TargetAdapter, DraftAdapter]:
    return tiny_pair(tmp_path_factory.mktemp("pair"))


def rules(rng: random.Random) -> LogitRules:
    return LogitRules(
        bias=tuple((token, rng.uniform(-8, 8)) for token in rng.sample(range(VOCAB), 3)),
        presence=rng.choice([0.0, 0.7]),
        frequency=rng.choice([0.0, 1.1, -0.4]),
        repetition=rng.choice([1.0, 1.3, 0.8]),
        min_tokens=rng.choice([0, 7]),
    )


def thinking(rng: random.Random) -> ThinkingRule:
    budget = rng.choice([None, 0, 5, 12])
    return ThinkingRule((THOUGHT,), (THINK,), begun=rng.random() < 0.5, budget=budget)


def requests(count: int, seed: int) -> list[EngineRequest]:
    """One of each kind of row in turn, with every kind of sampling."""
    rng = random.Random(seed)
    compile_ = compiler().compile
    made = []
    for number in range(count):
        kind = number % 6
        sampling = SamplingParams(
            temperature=rng.choice([0.0, 0.0, 1.0, 1.6]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 30]),
            seed=rng.randrange(2**63),
        )
        request = EngineRequest(
            id=str(number),
            prompt=tuple(rng.randrange(3, VOCAB) for _ in range(rng.choice([1, 6, 20, 70]))),
            max_tokens=rng.randint(20, 60),
            sampling=sampling,
            stop_tokens=frozenset([END]),
        )
        if kind in (1, 4):
            request = dataclasses.replace(request, rules=rules(rng))
        if kind in (2, 3, 4):
            source = SOURCES[number // 6 % len(SOURCES)]
            request = dataclasses.replace(request, grammar=compile_(source))
        if kind in (3, 5):
            request = dataclasses.replace(request, thinking=thinking(rng))
        if rng.random() < 0.4:
            request = dataclasses.replace(request, logprobs=rng.choice([0, 3]))
        made.append(request)
    return made


def generate(
    pair: tuple[TargetAdapter, DraftAdapter | None],
    work: Sequence[EngineRequest],
    *,
    block: int,
    batch: int,
    compiled: bool = True,
    nodes: int = 0,
) -> tuple[dict[str, list[TokenChunk]], EngineStats]:
    """Chunks per request, and the engine's totals; half of the requests join late."""
    rng = random.Random(5)
    runner = DeviceRunner(pair[0], pair[1], block, compiled=compiled)
    config = EngineConfig(
        max_batch=batch,
        max_context=CONTEXT,
        prefill_chunk=32,
        block_size=block,
        tree_nodes=(nodes,),
    )
    scheduler = Scheduler(config, lambda: 0.0)
    chunks: dict[str, list[TokenChunk]] = {request.id: [] for request in work}
    waiting = list(work)
    while waiting or not scheduler.idle:
        while waiting and (len(waiting) > len(work) // 2 or rng.random() < 0.3):
            scheduler.add(waiting.pop(0))
        plan = scheduler.plan()
        if plan is not None:
            for chunk in scheduler.commit(plan, runner.run(plan)):
                chunks[chunk.request_id].append(chunk)
    return chunks, scheduler.stats()


def texts(chunks: dict[str, list[TokenChunk]]) -> Texts:
    return {name: [t for chunk in own for t in chunk.tokens] for name, own in chunks.items()}


def logprobs(chunks: dict[str, list[TokenChunk]]) -> dict[str, list[TokenLogprob]]:
    return {name: [e for chunk in own for e in chunk.logprobs] for name, own in chunks.items()}


@pytest.fixture(scope="module")
def oracle(pair: tuple[TargetAdapter, DraftAdapter]) -> dict[str, list[TokenChunk]]:
    return generate((pair[0], None), requests(24, 3), block=1, batch=1, compiled=False)[0]


def knowing(drafter: DraftAdapter, oracle: Texts, work: Sequence[EngineRequest]) -> DraftAdapter:
    """Drafts what plain decoding said of every row, but for each fifth position.

    Rows are told apart by their anchor and position, which is mostly enough.
    """
    table: dict[tuple[int, int], list[int]] = {}
    for request in work:
        whole = [*request.prompt, *oracle[request.id]]
        for at in range(len(request.prompt), len(whole)):
            table[at, whole[at]] = whole[at + 1 :]

    def script(drafts: mx.array, positions: mx.array, anchors: mx.array) -> mx.array:
        rows: list[list[int]] = drafts.tolist()  # type: ignore[assignment]
        for row, place, anchor in zip(rows, positions.tolist(), anchors.tolist(), strict=True):  # type: ignore[arg-type]
            for i, token in enumerate(table.get((place[0] - 1, anchor), [])[: len(row)]):
                if (place[0] + i) % 5:
                    row[i] = token
        return mx.array(rows, dtype=mx.int32)

    return ScriptedDrafter(drafter, script)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("block", "batch", "compiled"), [(2, 8, False), (8, 1, True), (16, 3, True)]
)
def test_tokens_and_logprobs_are_those_of_plain_decoding(
    pair: tuple[TargetAdapter, DraftAdapter],
    oracle: dict[str, list[TokenChunk]],
    block: int,
    batch: int,
    compiled: bool,
) -> None:
    work = requests(24, 3)
    chunks, stats = generate(pair, work, block=block, batch=batch, compiled=compiled)
    assert texts(chunks) == texts(oracle)
    assert logprobs(chunks) == logprobs(oracle)
    assert stats.drafted > 0
    assert stats.free_slots == batch


@pytest.mark.parametrize("batch", [1, 8])
def test_accepted_drafts_are_processed_like_single_tokens(
    pair: tuple[TargetAdapter, DraftAdapter], oracle: dict[str, list[TokenChunk]], batch: int
) -> None:
    work = requests(24, 3)
    drafter = knowing(pair[1], texts(oracle), work)
    chunks, stats = generate((pair[0], drafter), work, block=8, batch=batch, compiled=False)
    assert texts(chunks) == texts(oracle)
    assert logprobs(chunks) == logprobs(oracle)
    assert stats.accepted > 0.4 * stats.generated_tokens


@pytest.mark.parametrize("constrained", [False, True])
def test_nodes_of_a_tree_are_processed_like_single_tokens(
    pair: tuple[TargetAdapter, DraftAdapter],
    oracle: dict[str, list[TokenChunk]],
    constrained: bool,
) -> None:
    """Penalties count what stands on a node's own path; a round with a grammar drafts chains."""
    work = [
        request
        for request in requests(24, 3)
        if constrained or (request.grammar is None and request.thinking is None)
    ]
    known = [(*request.prompt, *texts(oracle)[request.id]) for request in work]
    drafter = BranchingDrafter(pair[1], Known.of(known, CONTEXT, VOCAB, seed=1))
    both = (pair[0], drafter)
    chunks, stats = generate(
        both,  # type: ignore[arg-type]
        work,
        block=8,
        batch=3,
        nodes=24,
        compiled=constrained,
    )
    for name, own in texts(chunks).items():
        assert own == texts(oracle)[name]
        assert logprobs(chunks)[name] == logprobs(oracle)[name]
    assert stats.accepted > 0.2 * stats.generated_tokens


def test_a_selector_s_drafts_are_processed_alike(
    tmp_path: Path, oracle: dict[str, list[TokenChunk]]
) -> None:
    chunks, _ = generate(tiny_pair(tmp_path, None, DFLASH2), requests(24, 3), block=8, batch=5)
    assert texts(chunks) == texts(oracle)


def test_recurrent_states_follow_what_constraints_let_through(tmp_path: Path) -> None:
    """A marker in mid-block drops accepted tokens: the state must not have seen them."""
    pair = tiny_pair(tmp_path, {"base": QWEN3_5})
    rng = random.Random(4)
    grammar = compiler().compile(SOURCES[1])
    work = [
        EngineRequest(
            str(number),
            tuple(rng.randrange(3, VOCAB) for _ in range(12)),
            40,
            SamplingParams(1.0, seed=number),
            frozenset([END]),
            rules=LogitRules(bias=((THOUGHT, 4.0),)),  # it comes early, at a place of its own
            grammar=grammar,
            thinking=ThinkingRule((THOUGHT,), (THINK,), begun=True),
        )
        for number in range(12)
    ]
    plain, _ = generate((pair[0], None), work, block=1, batch=1, compiled=False)
    reasoned = [reasoning(own, work[0].thinking) for own in texts(plain).values()]  # type: ignore[arg-type]
    assert len(set(reasoned)) > 3
    drafter = knowing(pair[1], texts(plain), work)
    chunks, stats = generate((pair[0], drafter), work, block=8, batch=5, compiled=False)
    assert texts(chunks) == texts(plain)
    assert stats.accepted > 0.3 * stats.generated_tokens


def test_rows_do_what_they_were_asked(oracle: dict[str, list[TokenChunk]]) -> None:
    """The oracle itself: grammars hold, bans last, budgets end, figures are there."""
    for request in requests(24, 3):
        own = oracle[request.id]
        tokens = [token for chunk in own for token in chunk.tokens]
        entries = [entry for chunk in own for entry in chunk.logprobs]
        assert own[-1].error is None
        if request.logprobs is not None:
            stopped = own[-1].stop_token is not None
            chosen = [*tokens, own[-1].stop_token] if stopped else tokens
            assert [entry.token for entry in entries] == chosen
            assert all(len(entry.top) == request.logprobs for entry in entries)
        if own[-1].stop_token is not None and request.grammar is None:  # a whole text must end
            assert len(tokens) >= request.rules.min_tokens
        if request.thinking is not None and request.thinking.budget is not None:
            inside = reasoning(tokens, request.thinking)
            assert inside <= request.thinking.budget
        if request.grammar is not None and own[-1].stop_token is not None:
            assert accepts(request, tokens)


def reasoning(tokens: Sequence[int], rule: ThinkingRule) -> int:
    """How many tokens of reasoning there are."""
    inside = list(tokens) if rule.begun else []
    if tokens and tokens[0] == THINK and not rule.begun:
        inside = list(tokens[1:])
    return inside.index(THOUGHT) if THOUGHT in inside else len(inside)


def accepts(request: EngineRequest, tokens: Sequence[int]) -> bool:
    """Whether the tokens behind the reasoning are a whole text of the request's grammar."""
    matcher = compiler().compile(request.grammar.source).start()  # type: ignore[union-attr]
    body = list(tokens)
    if request.thinking is not None and (request.thinking.begun or body[:1] == [THINK]):
        body = body[body.index(THOUGHT) + 1 :]
    return matcher.consume_tokens(body) and matcher.is_accepting()


def test_prompt_logprobs_are_those_of_a_whole_forward(
    pair: tuple[TargetAdapter, DraftAdapter],
) -> None:
    """A prompt of several chunks, beside rows that ask for nothing."""
    rng = random.Random(2)
    prompt = tuple(rng.randrange(VOCAB) for _ in range(90))
    scored = EngineRequest("scored", prompt, 3, prompt_logprobs=2, logprobs=1)
    others = [EngineRequest(str(n), prompt[n:], 9) for n in range(3)]
    chunks, _ = generate(pair, [*others, scored], block=4, batch=4)
    (first, *_) = chunks["scored"]
    assert first.prompt_logprobs[0] is None
    entries = [entry for entry in first.prompt_logprobs if entry is not None]
    assert [entry.token for entry in entries] == list(prompt[1:])
    alone, _ = generate((pair[0], None), [scored], block=1, batch=1, compiled=False)
    assert alone["scored"][0].prompt_logprobs == first.prompt_logprobs
    # the last prompt token's distribution, seen as a first choice behind the shorter prompt
    shorter = EngineRequest("s", prompt[:-1], 1, logprobs=VOCAB)
    asked, _ = generate((pair[0], None), [shorter], block=1, batch=1)
    assert dict(asked["s"][0].logprobs[0].top)[prompt[-1]] == entries[-1].logprob
