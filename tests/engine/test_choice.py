"""Processing of logits on the device against plain Python, position by position."""

import random
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.engine.cache.layout import tree
from dflash_serve.engine.choice import ChoiceRow, choose, group_rows
from dflash_serve.engine.token_table import TokenTable
from dflash_serve.engine.types import LogitRules, SamplingParams

VOCAB, WIDTH = 40, 5
GREEDY = SamplingParams()


def row_of(rules: LogitRules, prompt: list[int], generated: list[int]) -> ChoiceRow:
    table = TokenTable(rules, frozenset([0, 3]))
    table.read(prompt)
    table.commit(generated)
    return ChoiceRow(GREEDY, 10, len(generated), rules, table)


def expected(
    logits: list[list[float]],
    drafts: list[int],
    rules: LogitRules,
    prompt: list[int],
    generated: list[int],
) -> list[int]:
    """The most likely token at each position, with the drafts before it counted as generated."""
    chosen = []
    for at, row in enumerate(logits):
        text = generated + drafts[:at]
        scores = list(row)
        for token, bias in rules.bias:
            scores[token] += bias
        for token in {*prompt, *text} if rules.repetition != 1.0 else ():
            factor = rules.repetition if scores[token] < 0 else 1 / rules.repetition
            scores[token] *= factor
        for token, count in Counter(text).items():
            scores[token] -= rules.frequency * count + rules.presence
        if len(text) < rules.min_tokens:
            scores[0] = scores[3] = -1e30
        chosen.append(max(range(VOCAB), key=scores.__getitem__))
    return chosen


RULES = [
    LogitRules(bias=((3, 4.0), (11, -2.0))),
    LogitRules(presence=1.5),
    LogitRules(frequency=0.8),
    LogitRules(frequency=-0.8, presence=-0.5),
    LogitRules(repetition=1.7),
    LogitRules(repetition=0.6),
    LogitRules(min_tokens=4, bias=((0, 9.0), (3, 8.0))),
    LogitRules(((5, 3.0), (0, 5.0)), 0.7, 0.9, 1.3, 6),
]


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_every_rule_beside_each_other(seed: int) -> None:
    rng = random.Random(seed)
    picked = rng.sample(RULES, 5)
    prompts = [rng.choices(range(VOCAB), k=rng.choice([0, 3, 30])) for _ in picked]
    texts = [rng.choices(range(VOCAB), k=rng.choice([0, 2, 25])) for _ in picked]
    logits = np.random.default_rng(seed).normal(0, 1.5, (6, WIDTH, VOCAB)).astype(np.float32)
    # few letters, so that drafts repeat each other and what stands before
    drafts = np.random.default_rng(seed).integers(0, 6, (6, WIDTH - 1)).astype(np.int32)
    rows = [row_of(*parts) for parts in zip(picked, prompts, texts, strict=True)]
    rows.insert(2, ChoiceRow(GREEDY, 4))
    chosen = choose(mx.array(logits), mx.array(drafts), group_rows(rows, WIDTH)).tolist()
    assert chosen.pop(2) == logits[2].argmax(axis=-1).tolist()  # type: ignore[union-attr]
    kept = [0, 1, 3, 4, 5]
    for at, rules, prompt, text, got in zip(kept, picked, prompts, texts, chosen, strict=True):  # type: ignore[arg-type]
        assert got == expected(logits[at].tolist(), drafts[at].tolist(), rules, prompt, text)


@pytest.mark.parametrize("seed", range(10))
def test_nodes_of_a_tree_count_the_drafts_of_their_own_path(seed: int) -> None:
    """Each node chooses as the end of a chain of the drafts above it."""
    rng = random.Random(seed)
    nodes = 9
    parents = [[0, *(rng.randrange(at) for at in range(1, nodes))] for _ in RULES]
    texts = [rng.choices(range(VOCAB), k=rng.choice([0, 2, 25])) for _ in RULES]
    random_ = np.random.default_rng(seed)
    logits = random_.normal(0, 1.5, (len(RULES), nodes, VOCAB)).astype(np.float32)
    drafts = random_.integers(0, 6, (len(RULES), nodes - 1)).astype(np.int32)
    rows = [row_of(rules, [], text) for rules, text in zip(RULES, texts, strict=True)]
    layout = tree(mx.array(parents, dtype=mx.int32), nodes)
    groups = group_rows(rows, nodes)
    chosen: list[list[int]] = choose(mx.array(logits), mx.array(drafts), groups, layout).tolist()  # type: ignore[assignment]
    for at, (rules, text) in enumerate(zip(RULES, texts, strict=True)):
        for node in range(nodes):
            path, above = [], node
            while above:
                path.insert(0, int(drafts[at, above - 1]))
                above = parents[at][above]
            row = [[0.0] * VOCAB] * len(path) + [logits[at, node].tolist()]
            assert chosen[at][node] == expected(row, path, rules, [], text)[-1]


def test_a_whole_batch_of_one_kind_needs_no_row_numbers() -> None:
    rules = LogitRules(frequency=2.0)
    rows = [row_of(rules, [], [1, 2]), row_of(rules, [], [3])]
    (group,) = group_rows(rows, WIDTH)
    assert group.kind.whole
    assert "index" not in group.arrays
    logits = mx.random.normal((2, WIDTH, VOCAB), key=mx.random.key(1))
    drafts = mx.array([[1, 1, 2, 2], [9, 9, 9, 9]], dtype=mx.int32)
    both = choose(logits, drafts, (group,)).tolist()
    for at, text in ((0, [1, 2]), (1, [3])):
        own = expected(logits[at].tolist(), drafts[at].tolist(), rules, [], text)  # type: ignore[arg-type]
        assert both[at] == own


@pytest.mark.parametrize("vocab", [32, 33, 64, 95, 1000])
def test_a_mask_leaves_exactly_the_tokens_of_its_bits(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    allowed = rng.random((3, vocab)) < 0.2
    allowed[:, -1] = True
    bits = np.zeros((3, -(-vocab // 32) * 32), dtype=np.uint8)
    bits[:, :vocab] = allowed
    masks = np.packbits(bits, axis=1, bitorder="little").view(np.uint32)
    logits = rng.normal(size=(2, 4, vocab)).astype(np.float32)
    rows = [ChoiceRow(GREEDY, 0), ChoiceRow(GREEDY, 0, masks=masks)]
    drafts = mx.zeros((2, 3), dtype=mx.int32)
    chosen = choose(mx.array(logits), drafts, group_rows(rows, 4)).tolist()
    assert chosen[0] == logits[0].argmax(axis=-1).tolist()
    limited = np.where(allowed, logits[1, :3], -np.inf).argmax(axis=-1).tolist()
    assert chosen[1][:3] == limited  # type: ignore[index]
    assert chosen[1][3] == logits[1, 3].argmax()  # type: ignore[index]  # no mask: anything


def test_where_a_grammar_leaves_only_a_banned_stop_token_it_is_chosen() -> None:
    rules = LogitRules(min_tokens=9)
    table = TokenTable(rules, frozenset([3]))
    masks = np.array([[1 << 3, 0]], dtype=np.uint32)
    for sampling in (GREEDY, SamplingParams(temperature=0.7, top_k=4, top_p=0.9, seed=1)):
        row = ChoiceRow(sampling, 0, 0, rules, table, masks)
        logits = mx.random.normal((1, 1, VOCAB), key=mx.random.key(3))
        empty = mx.zeros((1, 0), dtype=mx.int32)
        assert choose(logits, empty, group_rows([row], 1)).tolist() == [[3]]
