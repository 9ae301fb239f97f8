"""Every example is used exactly once per epoch, whatever the lengths are."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.step.batches import Batch, batches, padded_length, steps_per_epoch

BUCKET = 64
_RNG = np.random.default_rng(0)
DISTRIBUTIONS = {
    "long tail": np.minimum(40 + 60 * _RNG.pareto(1.1, 500), 8192).astype(int).tolist(),
    "log-normal": np.exp(_RNG.normal(5, 1.2, 300)).astype(int).tolist(),
    "all alike": [100] * 77,
    "no two alike": [BUCKET * n for n in range(1, 91)],
    "two far apart": [20] * 50 + [4000] * 3,
    "fewer than a batch": [30, 900, 70],
}


def epochs(lengths: list[int], size: int, count: int, seed: int = 0) -> list[list[Batch]]:
    each = steps_per_epoch(len(lengths), size)
    stream = batches(lengths, size, BUCKET, seed)
    return [list(islice(stream, each)) for _ in range(count)]


def check_epochs(lengths: list[int], size: int, seed: int = 0) -> None:
    sizes = {padded_length(length, BUCKET) for length in lengths}
    for number, epoch in enumerate(epochs(lengths, size, 3, seed)):
        uses = Counter(index for batch in epoch for index in batch.indices)
        assert uses == Counter(range(len(lengths)))
        assert sum(len(batch.indices) < size for batch in epoch) <= 1
        for batch in epoch:
            assert batch.epoch == number
            assert len(set(batch.indices)) == len(batch.indices)
            assert max(lengths[index] for index in batch.indices) <= batch.length
            assert batch.length in sizes, "a shape that no example needs"


@pytest.mark.parametrize("size", [1, 8, 32])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_example_is_used_once_per_epoch(name: str, size: int) -> None:
    check_epochs(DISTRIBUTIONS[name], size)


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 9)
)
def test_so_are_examples_of_any_lengths(lengths: list[int], size: int, seed: int) -> None:
    check_epochs(lengths, size, seed)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_stream_is_taken_up_at_any_batch(name: str) -> None:
    whole = [batch for epoch in epochs(DISTRIBUTIONS[name], 8, 3) for batch in epoch]
    for skip in (1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        found = batches(DISTRIBUTIONS[name], 8, BUCKET, 0, skip=skip)
        assert list(islice(found, len(whole) - skip)) == whole[skip:]


def test_epochs_come_in_other_orders_and_a_seed_repeats() -> None:
    lengths = DISTRIBUTIONS["long tail"]
    first, second, _ = epochs(lengths, 8, 3)
    assert [batch.indices for batch in first] != [batch.indices for batch in second]
    assert epochs(lengths, 8, 2) == [first, second]
    assert epochs(lengths, 8, 1, seed=1) != [first]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_so_many_epochs_are_as_many_steps_as_use_every_example_so_often(name: str) -> None:
    lengths = DISTRIBUTIONS[name]
    horizon = Horizon(epochs=3).in_steps(steps_per_epoch(len(lengths), 8))
    taken = islice(batches(lengths, 8, BUCKET, 0), horizon.steps)
    uses = Counter(index for batch in taken for index in batch.indices)
    assert set(uses.values()) == {3}


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to train on"):
        next(batches([], 2, 8, 0))
