"""The two halves of a round: propose a draft, verify it.

`propose` may be any proposer's; `verify` is the target's pass, each row's processing, the
acceptance scan, and the commit of what it accepts to all caches. Rows whose masks depend on the
draft need the host in between. Owner of the compiled graphs; knows no rows by number.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, NamedTuple

import mlx.core as mx

from dflash_serve.adapters.base import Draft, DraftAdapter, TargetAdapter
from dflash_serve.engine.cache.layout import Layout, side_by_side
from dflash_serve.engine.cache.layout import tree as tree_layout
from dflash_serve.engine.cache.pool import DRAFTER, SECOND, TARGET, Caches
from dflash_serve.engine.cache.span import Span
from dflash_serve.engine.cache.stores import ModelStore, View, attending, committed
from dflash_serve.engine.choice import Arrays, GroupKind, RowGroup, choose
from dflash_serve.engine.dual_draft import branches, grow_dual
from dflash_serve.engine.tree import grow
from dflash_serve.kernels.acceptance_scan import acceptance_scan
from dflash_serve.kernels.tree_scan import tree_scan

_KEPT = 256
"""Shapes that are remembered: rows of all kinds and lengths can be mixed in more ways than memory
holds."""
_TRACED_AFTER = 2
"""Rounds of one shape that run op by op before it is traced: a trace costs a few of them."""
Sizes = tuple[tuple[int, ...], ...]
Drafters = Mapping[str, DraftAdapter]


class Proposal(NamedTuple):
    """A draft for every row: ``tokens`` [R, n] int32 behind the anchor.

    A chain of width - 1, or with ``parents`` [R, n] int32 a tree: see `tree.Tree`.
    """

    tokens: mx.array
    parents: mx.array | None = None


class Verdict(NamedTuple):
    """``packed`` [R, width + 1] as `acceptance_scan`'s; ``logits`` [R, width, V], or none kept.

    ``taps`` [R, width, F] where the drafters' context is deferred.
    """

    packed: mx.array
    logits: mx.array | None
    taps: mx.array | None = None

    @classmethod
    def of_first(
        cls, chosen: mx.array, logits: mx.array | None = None, taps: mx.array | None = None
    ) -> "Verdict":
        """One token per row, [R, 1] int32, without drafts before it."""
        return cls(mx.concatenate([mx.ones_like(chosen), chosen], axis=1), logits, taps)

    @property
    def counts(self) -> mx.array:
        """[R] int32: how many tokens each row commits."""
        return self.packed[:, 0]

    def tokens(self) -> list[tuple[int, ...]]:
        """The tokens that each row commits, on the host."""
        rows: Any = self.packed.tolist()
        return [tuple(tokens[:count]) for count, *tokens in rows]


class RoundRows(NamedTuple):
    """The rows of a round, [R] int32 each: anchor tokens, tokens held before, block lengths."""

    anchors: mx.array
    offsets: mx.array
    blocks: mx.array


@dataclass(frozen=True, slots=True)
class RoundShape:
    """What traced halves depend on besides array shapes.

    ``width``: the widest block. ``capacities``: of the rows' caches. ``draft``: the drafter
    proposes; ``nodes``: tokens that are verified of a tree at most, the anchor included, 0 for a
    chain. ``logits``: they are kept for log-probabilities. ``defer``: the drafters' caches have no
    part in it, and the taps for their context are given back.
    """

    width: int
    capacities: tuple[int, ...]
    draft: bool
    nodes: int = 0
    kinds: tuple[GroupKind, ...] = ()
    logits: bool = False
    defer: bool = False


@dataclass(frozen=True, slots=True)
class Forward:
    """A target's pass over some rows, before it is known how many tokens of each row stay.

    ``hidden`` [R, width, H] after the final norm. ``path``: of a tree, as in `committed`. ``taps``:
    where the drafters have not got them.
    """

    hidden: mx.array
    views: dict[str, list[View]]
    path: mx.array | None = None
    taps: mx.array | None = None

    def commit(self, counts: mx.array) -> Caches:
        """The caches when ``counts`` [R] int32 tokens of each row stay."""
        return {model: committed(views, counts, self.path) for model, views in self.views.items()}


@dataclass(slots=True)
class _Graph:
    """A shape of round: how often it was run, and its trace if that was often enough."""

    function: Callable[..., Any]
    uses: int = 0
    traced: Callable[..., Any] | None = None


class Rounds:
    """The passes of one target and its drafters over rows' caches.

    ``drafters`` by the names of their ``stores``, none for plain decoding. ``compiled`` off traces
    nothing.
    """

    def __init__(
        self,
        target: TargetAdapter,
        drafters: Drafters,
        stores: dict[str, ModelStore],
        compiled: bool = True,
    ) -> None:
        self._target = target
        self._drafters = drafters
        self._stores = stores
        self._compiled = compiled
        # one trace each, so that their number is bounded: the one used last comes last
        self._graphs: OrderedDict[tuple[str, RoundShape, Sizes], _Graph] = OrderedDict()
        self.cold = False
        """Whether a graph ran that was not traced yet, since this was set to False."""

    @property
    def tap_bytes(self) -> int:
        """Bytes of the taps that drafters are given of one token."""
        return len(_taps(self._drafters)) * self._target.hidden_size * self._target.dtype.size

    def close(self) -> None:
        """Let the graphs go, on the thread that made them."""
        self._graphs.clear()

    def run(
        self, shape: RoundShape, rows: RoundRows, groups: Sequence[RowGroup], caches: Caches
    ) -> tuple[Verdict, Caches]:
        """A whole round in one graph."""
        passes = self._for_graph()

        def both(rows: RoundRows, arrays: list[Arrays], caches: Caches) -> tuple[Verdict, Caches]:
            proposal, after = passes._propose(shape, rows, caches)
            return passes._settle(shape, rows, proposal, arrays, after)

        result: tuple[Verdict, Caches] = self._graph("run", shape, _sizes(groups), both)(
            rows, [group.arrays for group in groups], caches
        )
        return result

    def propose(
        self, shape: RoundShape, rows: RoundRows, caches: Caches
    ) -> tuple[Proposal, Caches]:
        """The first half by itself."""
        passes = self._for_graph()

        def half(rows: RoundRows, caches: Caches) -> tuple[Proposal, Caches]:
            return passes._propose(shape, rows, caches)

        result: tuple[Proposal, Caches] = self._graph("propose", shape, (), half)(rows, caches)
        return result

    def verify(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        groups: Sequence[RowGroup],
        caches: Caches,
    ) -> tuple[Verdict, Caches]:
        """The second half by itself."""
        passes = self._for_graph()

        def half(
            rows: RoundRows, proposal: Proposal, arrays: list[Arrays], caches: Caches
        ) -> tuple[Verdict, Caches]:
            return passes._settle(shape, rows, proposal, arrays, caches)

        result: tuple[Verdict, Caches] = self._graph("verify", shape, _sizes(groups), half)(
            rows, proposal, [group.arrays for group in groups], caches
        )
        return result

    def judge(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        groups: Sequence[RowGroup],
        caches: Caches,
    ) -> tuple[Verdict, Forward]:
        """The second half up to its verdict: the host says how many tokens are committed."""
        arrays = [group.arrays for group in groups]
        return self._judge(shape, rows, proposal, arrays, caches)

    def forward(
        self, tokens: mx.array, span: Span, caches: Caches, *, defer: bool = False
    ) -> Forward:
        """Target forward over [R, width] tokens, its taps into the drafters' context.

        ``defer``: as in `RoundShape`.
        """
        views = {TARGET: self._stores[TARGET].views(caches[TARGET], span)}
        captured = self._target.forward(tokens, views[TARGET], _taps(self._drafters))
        if defer:
            return Forward(captured.hidden, views, taps=captured.taps)
        self._append(captured.taps, span, caches, views)
        return Forward(captured.hidden, views)

    def show(self, tokens: mx.array, span: Span, caches: Caches) -> Caches:
        """Give the drafters their context of tokens that the target's caches hold already.

        The target runs over them once more against its own stored keys and values, which stay as
        they are: what it emits next cannot change.
        """
        held = self._stores[TARGET].views(caches[TARGET], span, held=True)
        return self.append(
            self._target.forward(tokens, held, _taps(self._drafters)).taps, span, caches
        )

    def append(self, taps: mx.array | None, span: Span, caches: Caches) -> Caches:
        """Give the drafters their context by its taps."""
        views: dict[str, list[View]] = {}
        self._append(taps, span, caches, views)
        return caches | {name: committed(context, span.lengths) for name, context in views.items()}

    def _append(
        self, taps: mx.array | None, span: Span, caches: Caches, views: dict[str, list[View]]
    ) -> None:
        """Write ``taps`` into the context of all drafters, whose views are added to ``views``."""
        features = _by_layers(taps, self._drafters)
        for name, drafter in self._drafters.items():
            views[name] = self._stores[name].views(caches[name], span)
            if drafter.target_layer_ids:
                drafter.append_context(features[drafter.target_layer_ids], attending(views[name]))

    def _propose(
        self, shape: RoundShape, rows: RoundRows, caches: Caches
    ) -> tuple[Proposal, Caches]:
        count = rows.anchors.shape[0]
        if not shape.draft or DRAFTER not in self._drafters:
            return Proposal(mx.zeros((count, shape.width - 1), dtype=mx.int32)), caches
        drafter = self._drafters[DRAFTER]
        fewer = shape.width - drafter.inputs(shape.width)
        views = self._stores[DRAFTER].views(caches[DRAFTER], _span(shape, rows, fewer))
        draft = drafter.draft(rows.anchors, shape.width, attending(views))
        caches = {**caches, DRAFTER: committed(views, rows.blocks)}
        if not shape.nodes:
            return Proposal(draft.chain()), caches
        if SECOND in self._drafters:
            return self._propose_dual(shape, rows, draft, caches)
        return Proposal(*grow(draft, rows.anchors, shape.width - 1, shape.nodes - 1)), caches

    def _propose_dual(
        self, shape: RoundShape, rows: RoundRows, draft: Draft, caches: Caches
    ) -> tuple[Proposal, Caches]:
        """A tree of the first drafter's chain and what the second makes of it."""
        second: Any = self._drafters[SECOND]  # a `FillingDrafter`: the runner takes no other
        count, columns = branches(shape.width), branches(shape.width) * shape.width
        layout = side_by_side(rows.anchors.shape[0], count, shape.width)
        views = self._stores[SECOND].views(caches[SECOND], _spread(shape, rows, columns, layout))
        tree = grow_dual(
            draft,
            rows.anchors,
            (count, shape.width),
            shape.nodes - 1,
            lambda blocks: second.fill(blocks, attending(views)),
        )
        return Proposal(*tree), {**caches, SECOND: committed(views, rows.blocks)}

    def _judge(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        arrays: Sequence[Arrays],
        caches: Caches,
    ) -> tuple[Verdict, Forward]:
        drafts, anchors = proposal.tokens, rows.anchors[:, None]
        tokens = anchors if shape.width == 1 else mx.concatenate([anchors, drafts], axis=1)
        groups = [RowGroup(kind, part) for kind, part in zip(shape.kinds, arrays, strict=True)]
        if proposal.parents is not None:
            return self._judge_tree(shape, rows, tokens, proposal.parents, groups, caches)
        forward = self.forward(tokens, _span(shape, rows), caches, defer=shape.defer)
        logits = self._target.logits(forward.hidden)
        kept = logits if shape.logits else None
        choices = choose(logits, drafts, groups, lengths=rows.blocks)
        if shape.width == 1:
            return Verdict.of_first(choices, kept, forward.taps), forward
        packed = acceptance_scan(drafts, choices, rows.blocks)
        return Verdict(packed, kept, forward.taps), forward

    def _judge_tree(
        self,
        shape: RoundShape,
        rows: RoundRows,
        tokens: mx.array,
        parents: mx.array,
        groups: Sequence[RowGroup],
        caches: Caches,
    ) -> tuple[Verdict, Forward]:
        """All paths of ``tokens`` [R, n + 1] in one forward; the longest right one stays."""
        count, columns = tokens.shape
        parents = mx.pad(parents, [(0, 0), (1, 0)])
        layout = tree_layout(parents, min(shape.width, columns))
        forward = self.forward(tokens, _spread(shape, rows, columns, layout), caches)
        logits = self._target.logits(forward.hidden)
        choices = choose(logits, tokens[:, 1:], groups, layout)
        lengths = mx.full((count,), columns, dtype=mx.int32)
        scanned = tree_scan(tokens, parents, choices, lengths, rows.blocks, shape.width)
        packed, path = mx.split(scanned, [1 + shape.width], axis=1)
        kept = mx.take_along_axis(logits, path[..., None], axis=1) if shape.logits else None
        return Verdict(packed, kept), replace(forward, path=path)

    def _settle(
        self,
        shape: RoundShape,
        rows: RoundRows,
        proposal: Proposal,
        arrays: Sequence[Arrays],
        caches: Caches,
    ) -> tuple[Verdict, Caches]:
        verdict, forward = self._judge(shape, rows, proposal, arrays, caches)
        return verdict, forward.commit(verdict.counts)

    def _for_graph(self) -> "Rounds":
        """This object, for a function that its own graphs keep, without a reference cycle.

        MLX finds a trace by its function's address, in a table of the thread that traced it, and
        takes it out on the thread that frees the function. A cycle would be freed by whichever
        thread collects garbage, and the next function at that address would run an old trace.
        """
        return weakref.proxy(self)

    def _graph(
        self, half: str, shape: RoundShape, sizes: Sizes, function: Callable[..., Any]
    ) -> Callable[..., Any]:
        if not self._compiled:
            return function
        key = (half, shape, sizes)
        graph = self._graphs.setdefault(key, _Graph(function))
        self._graphs.move_to_end(key)
        if len(self._graphs) > _KEPT:
            self._graphs.popitem(last=False)
        graph.uses += 1
        self.cold |= graph.traced is None
        if graph.traced is None and graph.uses > _TRACED_AFTER:
            graph.traced = mx.compile(graph.function)
        return graph.traced or function


def _span(shape: RoundShape, rows: RoundRows, fewer: int = 0) -> Span:
    """Where the tokens of the rows' blocks stand, without the last ``fewer`` of each."""
    width = shape.width - fewer
    return Span(rows.offsets, rows.blocks - fewer, width, (width,) * len(shape.capacities))


def _spread(shape: RoundShape, rows: RoundRows, columns: int, layout: Layout) -> Span:
    """All rows fill a forward of ``columns`` columns that stand as ``layout`` says."""
    count = len(shape.capacities)
    lengths = mx.full((count,), columns, dtype=mx.int32)
    return Span(rows.offsets, lengths, columns, (columns,) * count, layout)


def _taps(drafters: Drafters) -> tuple[int, ...]:
    """The layers that drafters see; equal ones of two drafters once."""
    return tuple(chain.from_iterable(_asked(drafters)))


def _asked(drafters: Drafters) -> list[tuple[int, ...]]:
    ids = dict.fromkeys(drafter.target_layer_ids for drafter in drafters.values())
    return [layers for layers in ids if layers]


def _by_layers(taps: mx.array | None, drafters: Drafters) -> dict[tuple[int, ...], mx.array]:
    """Taps [R, q, K * H] of `_taps` -> those of each drafter, by its layers."""
    asked = _asked(drafters)
    if taps is None:
        return {}
    size = taps.shape[-1] // sum(map(len, asked))
    ends = list(accumulate(len(layers) * size for layers in asked))
    parts = mx.split(taps, ends[:-1], axis=-1) if len(asked) > 1 else [taps]
    return dict(zip(asked, parts, strict=True))


def _sizes(groups: Sequence[RowGroup]) -> Sizes:
    """What a graph is traced for besides its `RoundShape`: rows of groups, table lengths."""
    arrays = (group.arrays[name] for group in groups for name in sorted(group.arrays))
    return tuple(array.shape for array in arrays)
