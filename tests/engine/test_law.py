"""The joint law of the first three tokens under speculation, against exact enumeration.

A vocabulary of eight tokens; the exact law comes from the target's own logits of every prefix and
a processing of one position at a time in plain Python.
"""

import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.grammar import GrammarCompiler, from_regex
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, LogitRules, SamplingParams
from tests.adapters.caches import EngineRows
from tests.engine.scripted import ScriptedDrafter
from tests.tiny import DFLASH2, tiny_pair

VOCAB, END = 8, 0
PROMPT = (3, 1, 4, 1, 5)
SEEDS = 600
_LETTERS = "abcdef"  # tokens 1 to 6


@dataclass(frozen=True)
class Case:
    """One way to process; ``pattern`` is a regular expression over the letters."""

    sampling: SamplingParams
    rules: LogitRules = field(default_factory=LogitRules)
    pattern: str | None = None


CASES = {
    "temperature": Case(SamplingParams(temperature=2)),
    "top-k": Case(SamplingParams(temperature=3.5, top_k=4)),
    "top-p": Case(SamplingParams(temperature=3.5, top_p=0.8)),
    "min-p": Case(SamplingParams(temperature=3.5, min_p=0.1)),
    "all filters": Case(SamplingParams(temperature=4, top_k=6, top_p=0.95, min_p=0.05)),
    "bias, repetition": Case(
        SamplingParams(temperature=3), LogitRules(bias=((2, 2.0), (5, -3.0)), repetition=1.6)
    ),
    "presence, frequency": Case(
        SamplingParams(temperature=3), LogitRules(presence=-1.5, frequency=-1.0)
    ),
    "minimum": Case(SamplingParams(temperature=3.75), LogitRules(min_tokens=2)),
    "grammar": Case(SamplingParams(temperature=3.75), pattern="a[bc]+d?|b(a|cf)[a-f]*|[c-f]{1,2}"),
    "everything": Case(
        SamplingParams(temperature=3.75, top_k=5, top_p=0.97),
        LogitRules(((1, 1.0),), presence=0.5, frequency=0.5, repetition=1.2, min_tokens=1),
        "[a-c]+(d|ef)?[a-f]*",
    ),
}


TARGET = {"vocab_size": VOCAB, "num_hidden_layers": 2}
DRAFTER = {
    "vocab_size": VOCAB,
    "num_target_layers": 2,
    "num_hidden_layers": 1,
    "layer_types": ["full_attention"],
}
TAPS = {"mask_token_id": 7, "target_layer_ids": [0, 1]}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[TargetAdapter, DraftAdapter]:
    """A pair whose drafter proposes a chain of letters by anchor and position."""
    target, drafter = tiny_pair(
        tmp_path_factory.mktemp("v1"), TARGET, DRAFTER | {"dflash_config": TAPS}
    )
    scripted = ScriptedDrafter(
        drafter, lambda drafts, positions, anchors: 1 + (positions + 2 * anchors[:, None]) % 6
    )
    return target, scripted  # type: ignore[return-value]


@pytest.fixture(scope="module")
def selector(tmp_path_factory: pytest.TempPathFactory) -> tuple[TargetAdapter, DraftAdapter]:
    """A pair whose drafter chooses left to right among candidates."""
    config = DFLASH2["dflash_config"] | TAPS | {"selector_top_k": 3}
    changes = DFLASH2 | DRAFTER | {"dflash_config": config, "seed": 9}
    return tiny_pair(tmp_path_factory.mktemp("v2"), TARGET, changes)


@functools.cache
def compiler() -> GrammarCompiler:
    """A tokenizer of END, six letters and a mask token."""
    vocabulary = {"<end>": END} | {letter: at for at, letter in enumerate(_LETTERS, 1)}
    vocabulary["<mask>"] = 7
    added = [
        {"id": at, "content": name, "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
        for name, at in (("<end>", END), ("<mask>", 7))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    spec = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": byte_level | {"use_regex": False},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    return GrammarCompiler(json.dumps(spec), VOCAB, [END])


@functools.cache
def logits_of(target: TargetAdapter, tokens: tuple[int, ...]) -> list[float]:
    """The target's logits behind ``tokens``, in one forward without the engine."""
    count = len(tokens)
    ids = mx.array([list(tokens)], dtype=mx.int32)
    hidden = EngineRows(target.cache_specs, 1).run(
        [count], count, lambda views: target.forward(ids, views).hidden
    )
    row: list[float] = target.logits(hidden)[0, -1].tolist()  # type: ignore[assignment]
    return row


@functools.cache
def may_follow(pattern: str, text: tuple[int, ...]) -> set[int]:
    """The tokens that a grammar allows behind ``text``, END where the text may end."""
    matcher = compiler().compile(from_regex(pattern)).start()
    assert matcher.consume_tokens(list(text))
    allowed = {t for t in range(1, 7) if matcher.validate_tokens([t])}
    return allowed | ({END} if matcher.is_accepting() else set())


def law(case: Case, logits: Sequence[float], text: tuple[int, ...]) -> dict[int, float]:
    """Probabilities of the token behind ``text``, step by step."""
    rules, scores = case.rules, dict(enumerate(logits))
    for token, bias in rules.bias:
        scores[token] += bias
    for token in set(PROMPT) | set(text):
        scores[token] = (
            scores[token] / rules.repetition
            if scores[token] > 0
            else scores[token] * rules.repetition
        )
    for token, count in Counter(text).items():
        scores[token] -= rules.frequency * count + rules.presence
    if len(text) < rules.min_tokens:
        scores[END] = -1e30
    if case.pattern is not None:
        scores = {t: s for t, s in scores.items() if t in may_follow(case.pattern, text)}
    return filtered(case.sampling, scores)


def filtered(params: SamplingParams, scores: dict[int, float]) -> dict[int, float]:
    highest = max(scores.values())
    weights = {t: math.exp((s - highest) / params.temperature) for t, s in scores.items()}
    order = sorted(weights, key=lambda token: -weights[token])[: params.top_k or None]
    total = sum(weights[token] for token in order)
    kept, mass = [], 0.0
    for token in order:
        if kept and mass >= params.top_p:
            break
        kept.append(token)
        mass += weights[token] / total
    kept = [token for token in kept if weights[token] >= params.min_p * weights[order[0]]]
    total = sum(weights[token] for token in kept)
    return {token: weights[token] / total for token in kept if weights[token] > 0}


def exact(target: TargetAdapter, case: Case) -> dict[tuple[int, ...], float]:
    """Probability of every text of three tokens, or of fewer that END closed."""
    found: dict[tuple[int, ...], float] = {}

    def extend(text: tuple[int, ...], probability: float) -> None:
        if len(text) == 3 or END in text:
            found[text] = probability
            return
        for token, share in law(case, logits_of(target, (*PROMPT, *text)), text).items():
            extend((*text, token), probability * share)

    extend((), 1.0)
    return found


def sampled(
    pair: tuple[TargetAdapter, DraftAdapter], case: Case
) -> Iterator[tuple[tuple[int, ...], int]]:
    """The engine's texts of all seeds, and how many drafts each had accepted."""
    grammar = compiler().compile(from_regex(case.pattern)) if case.pattern else None
    config = EngineConfig(max_batch=200, max_queue=SEEDS, max_context=64, block_size=4)
    scheduler = Scheduler(config, lambda: 0.0)
    runner = DeviceRunner(*pair, 4)
    for seed in range(SEEDS):
        sampling = SamplingParams(
            **{name: getattr(case.sampling, name) for name in ("temperature", "top_p", "top_k")},
            min_p=case.sampling.min_p,
            seed=seed,
        )
        scheduler.add(
            EngineRequest(
                str(seed), PROMPT, 3, sampling, frozenset([END]), rules=case.rules, grammar=grammar
            )
        )
    texts: dict[str, tuple[int, ...]] = {}
    while not scheduler.idle:
        plan = scheduler.plan()
        assert plan is not None
        for chunk in scheduler.commit(plan, runner.run(plan)):
            text = texts.get(chunk.request_id, ()) + chunk.tokens
            texts[chunk.request_id] = text
            if chunk.usage is not None:
                ended = () if chunk.stop_token is None else (chunk.stop_token,)
                yield (*text, *ended), chunk.usage.accepted


RUNS = [("chain", name) for name in CASES]
RUNS += [("selector", name) for name in ("temperature", "everything")]


@pytest.mark.parametrize(("drafter", "name"), RUNS)
def test_the_first_three_tokens_follow_the_exact_law(
    request: pytest.FixtureRequest, drafter: str, name: str
) -> None:
    pair, case = request.getfixturevalue(drafter), CASES[name]
    wanted = {text: SEEDS * share for text, share in exact(pair[0], case).items()}
    results = list(sampled(pair, case))
    seen = Counter(text for text, _ in results)
    assert set(seen) <= set(wanted), "a text of probability 0"
    assert sum(accepted for _, accepted in results) > 10, "speculation took part"
    common = [text for text, expected in wanted.items() if expected >= 5]
    cells = [(seen[text], wanted[text]) for text in common]
    rest = SEEDS - sum(expected for _, expected in cells)
    if rest >= 5:
        cells.append((SEEDS - sum(count for count, _ in cells), rest))
    assert len(cells) > 5
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells)
    assert statistic < chi_square_limit(len(cells) - 1)


def chi_square_limit(degrees: int) -> float:
    """The 99.9 % quantile, by Wilson and Hilferty's approximation (1931)."""
    third = 2 / (9 * degrees)
    return degrees * (1 - third + 3.0902 * math.sqrt(third)) ** 3


def test_the_exact_law_is_a_law(chain: tuple[TargetAdapter, DraftAdapter]) -> None:
    for case in CASES.values():
        assert math.isclose(sum(exact(chain[0], case).values()), 1.0, abs_tol=1e-6)
    texts = exact(chain[0], CASES["grammar"])
    letters = ["".join(("", *_LETTERS)[t] for t in text if t != END) for text in texts]
    assert all(not text.startswith("aa") for text in letters)
    assert len(set(itertools.chain.from_iterable(texts))) > 5
