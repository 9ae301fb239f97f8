"""The law of the sampler: filters against plain Python, draws against exact probabilities."""

import math
import random

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.engine.choice import ChoiceRow, RowGroup, group_rows
from dflash_serve.engine.choice import choose as choose_tokens
from dflash_serve.engine.sampler import position_keys
from dflash_serve.engine.types import SamplingParams


def gather(rows: list[tuple[SamplingParams, int]], width: int) -> tuple[RowGroup, ...]:
    """Groups of rows given as (params, position)."""
    return group_rows([ChoiceRow(params, position) for params, position in rows], width)


def choose(logits: mx.array, groups: tuple[RowGroup, ...]) -> mx.array:
    rows, width, _ = logits.shape
    return choose_tokens(logits, mx.zeros((rows, width - 1), dtype=mx.int32), groups)


def expected(logits: list[float], params: SamplingParams) -> list[float]:
    """Probabilities after temperature, top-k, top-p and min-p, one token at a time."""
    scores = [value / params.temperature for value in logits]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = order[: params.top_k] if params.top_k else order
    weights = {i: math.exp(scores[i] - scores[order[0]]) for i in kept}
    total = sum(weights.values())
    nucleus, mass = [], 0.0
    for i in kept:
        if params.top_p < 1.0 and mass >= params.top_p:
            break
        nucleus.append(i)
        mass += weights[i] / total
    floor = params.min_p * weights[order[0]]
    nucleus = [i for i in nucleus if weights[i] >= floor]
    total = sum(weights[i] for i in nucleus)
    return [weights[i] / total if i in nucleus else 0.0 for i in range(len(scores))]


CASES = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.5),
    SamplingParams(temperature=1.0, top_k=3),
    SamplingParams(temperature=1.3, top_p=0.6),
    SamplingParams(temperature=1.0, min_p=0.3),
    SamplingParams(temperature=0.8, top_k=5, top_p=0.8, min_p=0.1),
    SamplingParams(temperature=2.0, top_k=1),
    SamplingParams(temperature=1.0, top_p=1e-6),
]


@pytest.mark.parametrize("params", CASES)
def test_rows_that_filter_nothing_are_the_same_beside_rows_that_do(params: SamplingParams) -> None:
    logits = mx.random.normal((2, 1, 50), key=mx.random.key(1))
    plain = SamplingParams(temperature=1.1, seed=5)
    alone = choose(logits[:1], gather([(plain, 7)], 1))
    beside = choose(logits, gather([(plain, 7), (params, 3)], 1))
    assert alone[0, 0].item() == beside[0, 0].item()


@pytest.mark.parametrize("params", CASES[:6])
def test_draws_follow_the_filtered_distribution(params: SamplingParams) -> None:
    """Chi-square over 6000 positions of one seed, 0.1 % tail."""
    rng = random.Random(9)
    logits = [rng.gauss(0, 1.5) for _ in range(8)]
    width = 6000
    rows = mx.broadcast_to(mx.array(logits), (1, width, 8))
    tokens = np.array(choose(rows, gather([(params, 0)], width)))[0]
    wanted = np.array(expected(logits, params)) * width
    seen = np.bincount(tokens, minlength=8)
    live = wanted > 0
    assert seen[~live].sum() == 0
    statistic = ((seen[live] - wanted[live]) ** 2 / wanted[live]).sum()
    limit = {7: 24.3, 6: 22.5, 5: 20.5, 4: 18.5, 3: 16.3, 2: 13.8, 1: 10.8}
    assert statistic < limit[int(live.sum()) - 1]


def test_two_positions_are_independent() -> None:
    """Chi-square of the joint law of neighbouring positions over many seeds."""
    logits = mx.broadcast_to(mx.log(mx.array([0.5, 0.3, 0.2])), (2000, 2, 3))
    rows = [(SamplingParams(temperature=1.0, seed=seed), 11) for seed in range(2000)]
    pairs = np.array(choose(logits, gather(rows, 2)))
    seen = np.bincount(pairs[:, 0] * 3 + pairs[:, 1], minlength=9)
    wanted = np.outer([0.5, 0.3, 0.2], [0.5, 0.3, 0.2]).ravel() * 2000
    assert ((seen - wanted) ** 2 / wanted).sum() < 26.1


def test_greedy_rows_are_untouched_by_sampled_neighbours() -> None:
    logits = mx.random.normal((3, 4, 40), key=mx.random.key(2))
    hot = SamplingParams(temperature=3.0, seed=1)
    mixed = choose(logits, gather([(SamplingParams(), 0), (hot, 0), (SamplingParams(), 0)], 4))
    greedy = mx.argmax(logits, axis=-1)
    assert mx.array_equal(mixed[0], greedy[0])
    assert mx.array_equal(mixed[2], greedy[2])
    assert not mx.array_equal(mixed[1], greedy[1])


def test_a_batch_of_greedy_rows_samples_nothing() -> None:
    assert gather([(SamplingParams(), 0)], 4) == ()


def test_keys_differ_between_seeds_and_positions() -> None:
    seeds = [2**64 - 1, 0, 1, 2, 2**63 - 1, 2**63]
    keys = position_keys(seeds, [0] * 6, 500)
    assert keys.shape == (6, 500, 2)
    assert len({tuple(key) for key in keys.reshape(-1, 2).tolist()}) == 3000


def test_a_key_is_splitmix_of_seed_and_position() -> None:
    """Texts must not change between versions: the published generator's first outputs for 0."""
    mixed = 0xE220A8397B1DCDAF  # SplitMix64's first output for seed 0
    expected = splitmix((mixed + 3 * 0x9E3779B97F4A7C15) % 2**64)
    high, low = position_keys([0], [3], 1)[0, 0].tolist()
    assert (high << 32) + low == expected


def splitmix(state: int) -> int:
    """The published reference, in plain integers."""
    word = (state + 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)
