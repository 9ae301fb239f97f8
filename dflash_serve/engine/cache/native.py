"""An attention view that runs as one operation per layer on CPUs, for all rows and in place."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from dflash_serve.engine.cache.attention import SPARE, Arrays, AttentionStore, AttentionView
from dflash_serve.engine.cache.span import Span, each


class NativeView(AttentionView):
    """An `AttentionView` by the extension's own primitives: no masks, and nothing left to write.

    ``held``: the forward runs over tokens that the rows hold, and only reads.
    """

    def __init__(
        self, native: Any, store: AttentionStore, rows: Sequence[Arrays], span: Span, held: bool
    ) -> None:
        super().__init__(store, rows, span)
        self._native = native
        self._held = held

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        self._fresh = keys, values
        self._unwritten = True
        return keys, values

    def attend(
        self,
        queries: mx.array,
        scale: float,
        *,
        causal: bool = True,
        sinks: mx.array | None = None,
    ) -> mx.array:
        rule = self._native.RowRule(
            scale=scale,
            causal=causal,
            window=self._store.spec.window or 0,
            ring=self._store.ring or 0,
            spare=SPARE,
            writes=not self._held,
        )
        out, *caches = self._native.attend(
            queries,
            *self._fresh,
            self._span.offsets,
            self._span.lengths,
            self._flat(),
            rule,
            sinks,
            self._layout(),
        )
        if self._held:
            self._unwritten = False
        else:
            self._take(caches)
        return out

    def commit(self, counts: mx.array, path: mx.array | None = None) -> list[Arrays]:
        """As `AttentionView`. What is known behind attention waits for the next evaluation here
        too: until a task has run, MLX holds the arrays that it made, and writing copies them.
        """
        if path is None and self._unwritten and self._span.width > SPARE:
            span, ring = self._span, self._store.ring or 0
            self._take(
                self._native.write(*self._fresh, span.offsets, span.lengths, self._flat(), ring)
            )
        elif path is not None or self._unwritten:
            self._new = each(self._fresh[0]), each(self._fresh[1])
        return super().commit(counts, path)

    def _flat(self) -> list[mx.array]:
        return [array for row in self._rows for array in row]

    def _take(self, caches: list[mx.array]) -> None:
        self._rows = [list(pair) for pair in zip(caches[::2], caches[1::2], strict=True)]
        self._unwritten = False

    def _layout(self) -> Any:
        """As the extension takes it; one for all layers of a forward."""
        layout = self._span.layout
        return None if layout is None else self._native.ColumnLayout(*layout)
