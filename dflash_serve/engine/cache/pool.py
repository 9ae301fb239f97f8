"""The caches of all rows, for the target and its proposers. Owner of the arrays between forwards.

A row's caches are its own arrays: they grow, shrink and leave by themselves, at their own cost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from dflash_serve.adapters.cache_spec import LayerSpec
from dflash_serve.engine.cache.attention import bucket
from dflash_serve.engine.cache.stores import ModelStore, Row

TARGET = "target"
DRAFTER = "drafter"
SECOND = "second drafter"
Caches = dict[str, list[Row]]
"""The rows of one forward by model: what a graph takes and gives back."""


@dataclass(slots=True)
class RowCache:
    """One row by model, with room for ``capacity`` tokens."""

    models: dict[str, Row]
    capacity: int = 0

    @property
    def nbytes(self) -> int:
        arrays = (array for row in self.models.values() for layer in row for array in layer)
        return sum(array.nbytes for array in arrays)


class CachePool:
    """Rows by number. ``take`` hands them to one forward, and `put` takes what it made of them.

    In between nothing else refers to the arrays, so a forward writes in place.
    """

    def __init__(self, specs: Mapping[str, Sequence[LayerSpec]]) -> None:
        self.models = {name: ModelStore(layers) for name, layers in specs.items()}
        self._rows: dict[int, RowCache] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    @property
    def nbytes(self) -> int:
        """What all rows take now."""
        return sum(row.nbytes for row in self._rows.values())

    def bytes_for(self, tokens: int) -> int:
        """The most that a row takes while it grows to ``tokens`` tokens, growth included."""
        stores = self.models.values()
        return sum(store.nbytes(tokens) for store in stores) + max(
            store.transient(tokens) for store in stores
        )

    def capacity(self, row: int) -> int:
        """Tokens that a row has room for: with the specs, the shape of all its arrays."""
        return self._rows[row].capacity

    def reserve(self, row: int, tokens: int) -> None:
        """Room for ``tokens`` in a row; what it holds stays. A new row begins with it."""
        cache = self._rows.setdefault(row, RowCache({name: [] for name in self.models}))
        if tokens > cache.capacity:
            self._fit(cache, tokens)

    def shrink(self, row: int, tokens: int) -> None:
        """Give back what a row of ``tokens`` tokens does not need."""
        self._fit(self._rows[row], tokens)

    def free(self, rows: Iterable[int]) -> None:
        """Let rows go; unknown ones are ignored."""
        for row in rows:
            self._rows.pop(row, None)

    def hand_out(self, row: int) -> RowCache:
        """Give a row away: it is no longer this pool's."""
        return self._rows.pop(row)

    def take_in(self, row: int, cache: RowCache) -> None:
        """Take a row that a pool with the same specs handed out."""
        self._rows[row] = cache

    def replace(self, model: str, specs: Sequence[LayerSpec] | None) -> None:
        """Another model takes over a name, or none: every row begins without its caches."""
        self.models.pop(model, None)
        if specs is not None:
            self.models[model] = ModelStore(specs)
        for cache in self._rows.values():
            cache.models.pop(model, None)
            if specs is not None:
                cache.models[model] = self.models[model].fit([], cache.capacity)

    def take(self, rows: Sequence[int]) -> Caches:
        """The caches of ``rows``, in this order; they are gone from here until `put`."""
        taken: Caches = {name: [] for name in self.models}
        for row in rows:
            models, self._rows[row].models = self._rows[row].models, {}
            for name, layers in models.items():
                taken[name].append(layers)
        return taken

    def put(self, rows: Sequence[int], caches: Caches) -> None:
        """What a forward made of the caches of `take`."""
        for index, row in enumerate(rows):
            self._rows[row].models = {name: of[index] for name, of in caches.items()}

    def settle(self, starts: Mapping[int, int]) -> list[mx.array]:
        """Write what forwards left to be written, in an evaluation of its own.

        ``starts``: by row, how many tokens it held before its last forward. Returns the arrays that
        this changes, not evaluated; none where forwards write everything themselves.
        """
        arrays: list[mx.array] = []
        for row, start in starts.items():
            models = self._rows[row].models
            for name, store in self.models.items():
                if store.unsettled(models[name]):
                    models[name] = store.settled(models[name], start)
                    arrays += [array for layer in models[name] for array in layer]
        return arrays

    def arrays(self) -> list[mx.array]:
        """For evaluation only."""
        rows = self._rows.values()
        return [a for row in rows for layers in row.models.values() for x in layers for a in x]

    def _fit(self, cache: RowCache, tokens: int) -> None:
        for name, store in self.models.items():
            cache.models[name] = store.fit(cache.models[name], tokens)
        cache.capacity = bucket(tokens)
