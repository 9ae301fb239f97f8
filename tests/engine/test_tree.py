"""Trees of drafts against all paths by brute force."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from dflash_serve.adapters.dflash import SlotDraft
from dflash_serve.engine.cache.layout import side_by_side, tree
from dflash_serve.engine.dual_draft import Rivals, grow_dual, likeliest_rivals
from dflash_serve.engine.tree import Tree, grow

Path = tuple[int, ...]
ANCHORS = mx.array([1, 2], dtype=mx.int32)


def logits(slots: int, vocab: int, seed: int) -> mx.array:
    return 2.0 * mx.random.normal((2, slots, vocab), key=mx.random.key(seed))


def paths(found: Tree, row: int) -> list[Path]:
    """The tokens from the anchor down to each draft, in the order of columns."""
    tokens, parents = np.array(found.tokens)[row], np.array(found.parents)[row]
    known: list[Path] = [()]
    for token, parent in zip(tokens.tolist(), parents.tolist(), strict=True):
        known.append((*known[parent], token))
    return known[1:]


def best_paths(scores: np.ndarray, levels: int, nodes: int) -> set[Path]:
    """The ``nodes`` likeliest of all paths over log-probabilities [slots, V]."""
    every = [
        path
        for depth in range(1, levels + 1)
        for path in itertools.product(range(scores.shape[1]), repeat=depth)
    ]
    every.sort(key=lambda path: -sum(scores[i, token] for i, token in enumerate(path)))
    return set(every[:nodes])


@pytest.mark.parametrize(("levels", "nodes"), [(1, 3), (3, 1), (3, 7), (4, 20), (2, 64)])
def test_the_likeliest_paths_make_the_tree(levels: int, nodes: int) -> None:
    values = logits(4, 5, seed=nodes)
    found = grow(SlotDraft(values), ANCHORS, levels, nodes)
    scores = np.array(values - mx.logsumexp(values, axis=-1, keepdims=True))
    for row in range(2):
        got = paths(found, row)
        assert len(got) == len(set(got))
        assert set(got) == best_paths(scores[row], levels, nodes)


def test_a_node_comes_behind_its_parent_even_where_it_is_certain() -> None:
    """Log-probabilities of 0 tie a whole path."""
    certain = mx.where(mx.arange(6) == 4, 100.0, 0.0) * mx.ones((2, 5, 6))
    found = grow(SlotDraft(certain), ANCHORS, 5, 4)
    assert paths(found, 0) == [(4,), (4, 4), (4, 4, 4), (4, 4, 4, 4)]


def test_a_layout_says_who_is_above_whom() -> None:
    parents = mx.array([[0, 0, 0, 1, 3, 2]], dtype=mx.int32)
    layout = tree(parents, 4)
    assert layout.lines is not None
    assert layout.depths.tolist() == [[0, 1, 1, 2, 3, 2]]
    above = [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 3, 4], [0, 2, 5]]
    for column, line in enumerate(above):
        assert layout.lines[0, column, : len(line)].tolist() == line
        assert [at for at, sees in enumerate(layout.sees[0, column].tolist()) if sees] == line


def test_blocks_side_by_side_do_not_see_each_other() -> None:
    layout = side_by_side(1, 2, 3)
    assert layout.depths.tolist() == [[0, 1, 2, 0, 1, 2]]
    sees: list[list[bool]] = layout.sees[0].tolist()
    assert sees == [[(i < 3) == (j < 3) for j in range(6)] for i in range(6)]


def test_the_likeliest_rivals_are_followed() -> None:
    odds = mx.log(mx.array([[0.1, 0.4, 0.2, 0.3], [0.4, 0.1, 0.3, 0.2]]))
    tokens = mx.arange(8).reshape(2, 4)
    found = likeliest_rivals(Rivals(tokens, tokens % 4, odds), 2)
    assert found.tokens.tolist() == [[1, 3], [4, 6]]
    assert found.slots.tolist() == [[1, 3], [0, 2]]
    assert np.allclose(np.exp(np.array(found.odds)), [[0.4, 0.3], [0.4, 0.3]])


def test_a_second_drafter_goes_on_behind_the_likely_breaks() -> None:
    """The chain 0 0 0, unsure of its second token, where 5 is as likely but for a little."""
    unsure = np.full((1, 3, 8), -9.0, dtype=np.float32)
    unsure[0, :, 0] = 5.0
    unsure[0, 1, [0, 5]] = 3.0, 2.9
    asked: list[list[int]] = []

    def fill(blocks: mx.array) -> tuple[mx.array, mx.array]:
        given = np.array(blocks)
        asked.extend(given[0].tolist())
        tokens = np.where(given < 0, 6, given)[..., 1:]
        return mx.array(tokens), mx.full(tokens.shape, np.log(0.9))

    found = grow_dual(SlotDraft(mx.array(unsure)), ANCHORS[:1], (1, 4), 5, fill)
    assert asked == [[1, 0, 5, -1]]
    assert set(paths(found, 0)) == {(0,), (0, 0), (0, 0, 0), (0, 5), (0, 5, 6)}


def test_equal_paths_of_both_drafters_are_one_node() -> None:
    """The branch takes the chain's own way again: only its rival is new."""
    values = np.full((1, 3, 8), -9.0, dtype=np.float32)
    values[0, :, 0] = 5.0

    def fill(blocks: mx.array) -> tuple[mx.array, mx.array]:
        tokens = mx.zeros_like(blocks)[..., 1:]
        return tokens, mx.full(tokens.shape, np.log(0.5))

    found = grow_dual(SlotDraft(mx.array(values)), ANCHORS[:1], (2, 4), 3, fill)
    assert paths(found, 0) == [(0,), (0, 0), (0, 0, 0)]


def test_a_drafter_that_knows_one_token_a_slot_leaves_its_chain() -> None:
    def fill(blocks: mx.array) -> tuple[mx.array, mx.array]:
        raise AssertionError("there is nothing to go on from")

    found = grow_dual(SlotDraft(logits(3, 1, 0)), ANCHORS, (2, 4), 7, fill)
    assert paths(found, 0) == [(0,), (0, 0), (0, 0, 0)]


def test_merged_paths_keep_their_parents() -> None:
    """Whatever the budget, each node's parent is in the tree and comes before it."""
    for seed in range(5):
        draft = SlotDraft(logits(7, 6, seed))
        rng = np.random.default_rng(seed)

        def fill(blocks: mx.array, rng: np.random.Generator = rng) -> tuple[mx.array, mx.array]:
            given = np.array(blocks)[..., 1:]
            drawn = np.where(given < 0, rng.integers(0, 6, given.shape), given)
            chances = rng.uniform(0.2, 0.9, given.shape).astype(np.float32)
            return mx.array(drawn.astype(np.int32)), mx.log(mx.array(chances))

        for nodes in (3, 8, 15):
            found = grow_dual(draft, ANCHORS, (4, 8), nodes, fill)
            assert found.tokens.shape == (2, nodes)
            columns = mx.arange(1, nodes + 1)
            assert mx.all(found.parents < columns).item()
            for row in range(2):
                got = paths(found, row)
                assert len(set(got)) == len(got)
