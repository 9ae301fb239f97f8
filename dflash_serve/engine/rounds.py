"""The two halves of a round as traced functions: propose a draft, verify it.

`propose` may be any proposer's; `verify` is the target's pass, each row's processing, and the
acceptance scan. Rows whose masks depend on the draft need the host in between: then each half is a
graph of its own. Owner of the compiled graphs; knows no slots beyond their views.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.masks import causal_mask
from dflash_serve.engine.cache_pool import RowSpan, SpanShape, stored
from dflash_serve.engine.choice import Arrays, GroupKind, RowGroup, choose
from dflash_serve.kernels.acceptance_scan import acceptance_scan

_KEPT = 256
"""Traced graphs that are kept: rows of all kinds can be mixed in more ways than memory holds."""
Sizes = tuple[tuple[int, ...], ...]


class Stores(NamedTuple):
    """The arrays of both slot caches, handed through a forward that replaces them."""

    target: list[mx.array]
    draft: list[mx.array]


class Proposal(NamedTuple):
    """A draft for every row: ``tokens`` [R, width - 1] int32, a chain behind the anchor."""

    tokens: mx.array


class Verdict(NamedTuple):
    """``packed`` [R, width + 1] as `acceptance_scan`'s; ``logits`` [R, width, V], or none kept."""

    packed: mx.array
    logits: mx.array | None


class RoundRows(NamedTuple):
    """The rows of a round, [R] int32 each: anchor tokens, tokens held before, block lengths."""

    anchors: mx.array
    offsets: mx.array
    blocks: mx.array


@dataclass(frozen=True, slots=True)
class RoundShape:
    """What traced halves depend on besides array shapes.

    ``draft``: the drafter proposes; ``logits``: they are kept for log-probabilities.
    """

    span: SpanShape
    draft: bool
    kinds: tuple[GroupKind, ...] = ()
    logits: bool = False


class Rounds:
    """The graphs of one target and drafter. ``compiled`` off runs them op by op."""

    def __init__(
        self, target: TargetAdapter, drafter: DraftAdapter | None, compiled: bool = True
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._compiled = compiled
        # one trace each, so that their number is bounded: the one used last comes last
        self._graphs: OrderedDict[tuple[str, RoundShape, Sizes], Callable[..., Any]] = OrderedDict()

    def close(self) -> None:
        """Let the graphs go, on the thread that made them."""
        self._graphs.clear()

    def run(
        self, shape: RoundShape, rows: RoundRows, groups: Sequence[RowGroup], stores: Stores
    ) -> tuple[Verdict, Stores]:
        """A whole round in one graph."""

        def both(rows: RoundRows, arrays: list[Arrays], stores: Stores) -> tuple[Verdict, Stores]:
            proposal, draft = self._propose(shape, rows, stores.draft)
            return self._verify(shape, rows, proposal, arrays, Stores(stores.target, draft))

        result: tuple[Verdict, Stores] = self._graph("run", shape, _sizes(rows, groups), both)(
            rows, [group.arrays for group in groups], stores
        )
        return result

    def propose(
        self, shape: RoundShape, rows: RoundRows, draft: list[mx.array]
    ) -> tuple[Proposal, list[mx.array]]:
        """The first half by itself; ``draft`` is the drafter's store."""

        def half(rows: RoundRows, draft: list[mx.array]) -> tuple[Proposal, list[mx.array]]:
            return self._propose(shape, rows, draft)

        graph = self._graph("propose", shape, _sizes(rows, ()), half)
        result: tuple[Proposal, list[mx.array]] = graph(rows, draft)
        return result

    def verify(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        groups: Sequence[RowGroup],
        stores: Stores,
    ) -> tuple[Verdict, Stores]:
        """The second half by itself."""

        def half(
            rows: RoundRows, proposal: Proposal, arrays: list[Arrays], stores: Stores
        ) -> tuple[Verdict, Stores]:
            return self._verify(shape, rows, proposal, arrays, stores)

        result: tuple[Verdict, Stores] = self._graph("verify", shape, _sizes(rows, groups), half)(
            rows, proposal, [group.arrays for group in groups], stores
        )
        return result

    def forward(self, tokens: mx.array, span: RowSpan, stores: Stores) -> tuple[mx.array, Stores]:
        """Target forward over [R, width] tokens, its taps into the drafter's context.

        Returns hidden [R, width, H] after the final norm, and the stores.
        """
        target, draft = stores
        views = span.views(target)
        taps = self._drafter.target_layer_ids if self._drafter else ()
        mask = causal_mask(span.offsets, span.width, span.attended)
        captured = self._target.forward(tokens, mask, views, taps)
        if self._drafter and captured.taps is not None:
            context = span.views(draft)
            self._drafter.append_context(captured.taps, context)
            draft = stored(context)
        return captured.hidden, Stores(stored(views), draft)

    def _propose(
        self, shape: RoundShape, rows: RoundRows, draft: list[mx.array]
    ) -> tuple[Proposal, list[mx.array]]:
        if not shape.draft or self._drafter is None:
            drafts = mx.zeros((rows.anchors.shape[0], shape.span.width - 1), dtype=mx.int32)
            return Proposal(drafts), draft
        span = RowSpan(0, rows.offsets, rows.blocks, shape.span)
        views = span.views(draft)
        drafts = self._drafter.propose(rows.anchors, rows.blocks, span.width, views)
        return Proposal(drafts), stored(views)

    def _verify(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        arrays: Sequence[Arrays],
        stores: Stores,
    ) -> tuple[Verdict, Stores]:
        drafts = proposal.tokens
        tokens = mx.concatenate([rows.anchors[:, None], drafts], axis=1)
        span = RowSpan(0, rows.offsets, rows.blocks, shape.span)
        hidden, after = self.forward(tokens, span, stores)
        logits = self._target.logits(hidden)
        groups = [RowGroup(kind, part) for kind, part in zip(shape.kinds, arrays, strict=True)]
        packed = acceptance_scan(drafts, choose(logits, drafts, groups), rows.blocks)
        return Verdict(packed, logits if shape.logits else None), after

    def _graph(
        self, half: str, shape: RoundShape, sizes: Sizes, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        key = (half, shape, sizes)
        if key not in self._graphs:
            self._graphs[key] = mx.compile(function) if self._compiled else function
        self._graphs.move_to_end(key)
        if len(self._graphs) > _KEPT:
            self._graphs.popitem(last=False)
        return self._graphs[key]


def _sizes(rows: RoundRows, groups: Sequence[RowGroup]) -> Sizes:
    """What a graph is traced for besides its `RoundShape`: rows, those of groups, table lengths."""
    arrays = (group.arrays[name] for group in groups for name in sorted(group.arrays))
    return (rows.anchors.shape, *(array.shape for array in arrays))
