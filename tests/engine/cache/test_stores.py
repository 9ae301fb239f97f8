"""A model's layers of mixed kinds."""

from dataclasses import dataclass

import mlx.core as mx
import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec, StateArray, StateSpec
from dflash_serve.engine.cache.attention import SPARE
from dflash_serve.engine.cache.stores import ModelStore

FULL = AttentionSpec(2, 8, mx.float32)
SLIDING = AttentionSpec(2, 8, mx.float32, window=40)
STATE = StateSpec((StateArray((4, 4), mx.float32),))


@dataclass(frozen=True)
class CrossAttentionSpec:
    heads: int


def test_a_layer_kind_without_a_store_is_refused_by_name() -> None:
    with pytest.raises(AdapterError, match=r"^layer 1 keeps CrossAttentionSpec, .*AttentionSpec"):
        ModelStore([FULL, CrossAttentionSpec(2)])  # type: ignore[list-item]


def test_what_a_mixture_can_do_is_what_all_its_layers_can() -> None:
    made = {
        name: ModelStore(specs)
        for name, specs in (("full", [FULL] * 2), ("ring", [FULL, SLIDING]), ("state", [STATE]))
    }
    facts = {name: (one.holds_all, one.spare, one.recurs) for name, one in made.items()}
    assert facts == {
        "full": (True, None, False),
        "ring": (False, SPARE, False),
        "state": (False, None, True),
    }


def test_bytes_of_a_model_are_those_of_its_layers() -> None:
    store = ModelStore([FULL, SLIDING, STATE])
    for tokens in (10, 100, 1000):
        arrays = [array for layer in store.fit([], tokens) for array in layer]
        assert sum(array.nbytes for array in arrays) == store.nbytes(tokens)
    assert store.nbytes(1000) == 2 * 2 * 8 * 4 * (1024 + 128) + 4 * 16


def test_a_ring_s_end_is_foreseen() -> None:
    """Columns behind ``start`` tokens that go round before the ring does."""
    ring = ModelStore([AttentionSpec(1, 8, mx.float32), AttentionSpec(1, 8, mx.float32, 24)])
    places = 64 + 64
    for start in range(3 * places):
        for columns in (1, 8, 64):
            crossed = any((start + at) % places == 0 for at in range(1, columns))
            assert ring.turns(start, columns) == crossed
    assert not ModelStore([AttentionSpec(1, 8, mx.float32)]).turns(127, 64)
