"""Which store keeps what a layer's spec describes, and the layers of one model together."""

from collections.abc import Iterator, Sequence

import mlx.core as mx

from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec, StateSpec
from dflash_serve.engine.cache.attention import SPARE, Arrays, AttentionStore, AttentionView
from dflash_serve.engine.cache.native import NativeView
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.cache.state import StateStore, StateView
from dflash_serve.kernels.native import native

Store = AttentionStore | StateStore
View = AttentionView | StateView
Row = list[Arrays]
"""What all layers of one model keep of one row, first layer first."""

_STORES: dict[type, type[Store]] = {AttentionSpec: AttentionStore, StateSpec: StateStore}


class ModelStore:
    """The stores of one model's layers.

    Raises:
        AdapterError: no store keeps a layer's kind.
    """

    def __init__(self, specs: Sequence[LayerSpec]) -> None:
        for layer, spec in enumerate(specs):
            if type(spec) not in _STORES:
                known = ", ".join(kind.__name__ for kind in _STORES)
                raise AdapterError(
                    f"layer {layer} keeps {type(spec).__name__}, for which there is no cache "
                    f"(there is one for {known})"
                )
        self._stores = [_STORES[type(spec)](spec) for spec in specs]  # type: ignore[arg-type]

    @property
    def holds_all(self) -> bool:
        """Whether every layer keeps what each token saw, so that a forward can be run again."""
        return all(
            isinstance(store, AttentionStore) and store.spec.window is None
            for store in self._stores
        )

    @property
    def spare(self) -> int | None:
        """Tokens that a forward may write before it is known which stay; None: any number."""
        windows = [getattr(store.spec, "window", None) for store in self._stores]
        return None if all(window is None for window in windows) else SPARE

    def turns(self, start: int, columns: int) -> bool:
        """Whether some ring's end lies within ``columns`` columns behind ``start`` tokens.

        There columns and positions go round at different places, so that a tree's keys would not
        be added up in the order of positions.
        """
        return any(
            isinstance(store, AttentionStore) and store.turns(start, columns)
            for store in self._stores
        )

    @property
    def recurs(self) -> bool:
        """Whether some layer has a state, which no length can cut back."""
        return any(isinstance(store, StateStore) for store in self._stores)

    def nbytes(self, tokens: int) -> int:
        """Bytes of a row that holds ``tokens`` tokens."""
        return sum(store.nbytes(tokens) for store in self._stores)

    def transient(self, tokens: int) -> int:
        """Bytes that growing or a forward takes beside them: layers change one after another."""
        return max((store.transient(tokens) for store in self._stores), default=0)

    def fit(self, row: Row, tokens: int) -> Row:
        """Give a row room for ``tokens``, one layer at a time, so that one is there twice."""
        layers = row or [[] for _ in self._stores]
        for index, store in enumerate(self._stores):
            layers[index] = store.fit(layers[index], tokens)
            mx.eval(layers[index])
        return layers

    def unsettled(self, row: Row) -> int:
        """How many tokens a forward left to be written in a row, at every layer alike."""
        kept = next(self._attending(row), [])
        return kept[2].shape[2] if len(kept) > 2 else 0

    def settled(self, row: Row, start: int) -> Row:
        """A row with what a forward from position ``start`` on left to be written."""
        positions = mx.arange(start, start + self.unsettled(row), dtype=mx.int32)
        pairs = zip(self._stores, row, strict=True)
        return [store.settled(arrays, positions) for store, arrays in pairs]

    def _attending(self, row: Row) -> Iterator[Arrays]:
        pairs = zip(self._stores, row, strict=True)
        return (arrays for store, arrays in pairs if isinstance(store, AttentionStore))

    def views(self, rows: Sequence[Row], span: Span, held: bool = False) -> list[View]:
        """One view per layer of these rows in one forward."""
        return [
            _view(store, [row[layer] for row in rows], span, held)
            for layer, store in enumerate(self._stores)
        ]


def _view(store: Store, rows: list[Arrays], span: Span, held: bool) -> View:
    if isinstance(store, AttentionStore) and store.spec.dtype == mx.float32:
        extension = native()
        if extension is not None:
            return NativeView(extension, store, rows, span, held)
    return store.view(rows, span, held)


def attending(views: Sequence[View]) -> list[AttentionView]:
    """The views of a drafter: all its layers attend."""
    found = [view for view in views if isinstance(view, AttentionView)]
    assert len(found) == len(views), "a drafter has a layer that does not attend"
    return found


def committed(views: Sequence[View], counts: mx.array, path: mx.array | None = None) -> list[Row]:
    """The rows behind a forward of which each keeps ``counts`` [R] tokens; `settled` comes next.

    The first ones, or those of ``path`` [R, L] int32: its columns in this order.
    """
    layers = [view.commit(counts, path) for view in views]
    return [[layer[row] for layer in layers] for row in range(counts.shape[0])]
