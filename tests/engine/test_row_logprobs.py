"""Log-probabilities by row: whose tokens they are, how many beside each, and in what portions."""

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.engine.row_logprobs import WantedLogprobs, chosen_logprobs, prompt_logprobs
from dflash_serve.engine.types import TokenLogprob

VOCAB = 40


def logits(*shape: int) -> mx.array:
    return mx.array(np.random.default_rng(2).normal(size=(*shape, VOCAB)).astype(np.float32))


def expected(row: np.ndarray, token: int, top: int) -> tuple[float, list[int]]:
    """The token's own, and the ids of the most likely ones."""
    values = row.astype(np.float64)
    total = np.log(np.exp(values - values.max()).sum()) + values.max()
    return float(values[token] - total), np.argsort(-values)[:top].tolist()


def check(entry: TokenLogprob, row: np.ndarray, token: int, top: int) -> None:
    own, ids = expected(row, token, top)
    assert entry.token == token
    assert entry.logprob == pytest.approx(own, abs=1e-5)
    assert [other for other, _ in entry.top] == ids
    for other, value in entry.top:
        assert value == pytest.approx(expected(row, other, 0)[0], abs=1e-5)


def test_each_row_gets_its_own_positions_and_as_many_beside_them_as_it_asked_for() -> None:
    made = logits(4, 3)
    wanted = [
        WantedLogprobs(3, (7, 8), 2),
        WantedLogprobs(0, (1,), 5),
        WantedLogprobs(2, (), 4),
        WantedLogprobs(1, (9, 9, 9), 0),
    ]
    found = chosen_logprobs(made, wanted)
    assert set(found) == {0, 1, 2, 3}
    rows = np.array(made)
    for row in wanted:
        assert len(found[row.index]) == len(row.tokens)
        for at, (entry, token) in enumerate(zip(found[row.index], row.tokens, strict=True)):
            check(entry, rows[row.index, at], token, row.top)


def test_rows_that_chose_nothing_ask_nothing_of_the_device() -> None:
    assert chosen_logprobs(logits(2, 1), [WantedLogprobs(0, (), 3)]) == {}
    assert chosen_logprobs(logits(2, 1), []) == {}


@pytest.mark.parametrize("length", [1, 64, 65, 200])
def test_a_prompt_has_few_logits_at_a_time_and_one_entry_per_token(length: int) -> None:
    hidden = logits(length)  # a head that is the identity
    following = [(3 * at) % VOCAB for at in range(length)]
    portions = []

    def head(rows: mx.array) -> mx.array:
        portions.append(rows.shape[0])
        return rows

    entries = prompt_logprobs(hidden, following, 2, head)
    assert max(portions) <= 64
    assert sum(portions) == len(entries) == length
    for entry, row, token in zip(entries, np.array(hidden), following, strict=True):
        check(entry, row, token, 2)


def test_the_last_position_of_a_prompt_is_left_to_what_is_generated() -> None:
    """A last chunk has one following token less than positions."""
    assert len(prompt_logprobs(logits(5), [1, 2, 3, 4], 0, lambda rows: rows)) == 4
    assert prompt_logprobs(logits(1), [], 0, lambda rows: rows) == ()
