"""The graphs of a round of a target and its drafter, from their configs alone: no weights exist.

A round is what the engine runs (`engine.rounds`): draft, verification, acceptance, and the writing
of what was accepted, which is a graph of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from dflash_serve.adapters import registry
from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.cache_spec import AttentionSpec, LayerSpec
from dflash_serve.adapters.drafter_bits import GROUP
from dflash_serve.adapters.loading import make_drafter
from dflash_serve.bench.graph_cost import ACTIVATIONS
from dflash_serve.bench.shape_configs import Shape
from dflash_serve.engine.cache.attention import AttentionStore, bucket
from dflash_serve.engine.cache.pool import DRAFTER, TARGET, Caches
from dflash_serve.engine.cache.state import StateStore
from dflash_serve.engine.cache.stores import ModelStore, Row
from dflash_serve.engine.choice import ChoiceRow, RowGroup, group_rows
from dflash_serve.engine.rounds import RoundRows, Rounds, RoundShape
from dflash_serve.engine.types import SamplingParams

Leaf = Callable[[str, Sequence[int], mx.Dtype], mx.array]
"""(role, shape, dtype) -> an array without memory."""
_SAMPLED = SamplingParams(temperature=0.7, top_p=0.8, top_k=20)
WEIGHTS, DRAFTER_WEIGHTS, CACHES = "weights", "drafter weights", "caches"


@dataclass(frozen=True, slots=True)
class ShapedPair:
    """Adapters whose weights are leaves. ``bytes``: of weights, by their role."""

    target: TargetAdapter
    drafter: DraftAdapter
    bytes: dict[str, int]


@dataclass(frozen=True, slots=True)
class RoundKind:
    """A round to look at: ``block`` 1 is plain decoding without a drafter.

    ``context``: tokens that each row holds before it. ``sampled``: as chat clients ask by default,
    with a temperature, top-p and top-k; greedy otherwise.
    """

    rows: int
    block: int
    context: int
    sampled: bool = False

    @property
    def name(self) -> str:
        name = "plain" if self.block == 1 else f"block {self.block}"
        return f"{name} sampled" if self.sampled else name


@dataclass(frozen=True, slots=True)
class Bits:
    """Bits of a weight of the target's and of the drafter's matrices; 16: bfloat16."""

    target: int = 4
    drafter: int = 16


def shaped_pair(shape: Shape, bits: Bits, leaf: Leaf) -> ShapedPair:
    """The pair of a shape."""
    adapter = registry.find_target(shape.target["model_type"])
    model_class, args_class = adapter.model_classes
    model = model_class(args_class.from_dict(shape.target))
    nbytes = {WEIGHTS: _unload(model, bits.target, WEIGHTS, leaf)}
    target: TargetAdapter = adapter(model)
    drafter = make_drafter(shape.drafter, target)
    nbytes[DRAFTER_WEIGHTS] = _unload(drafter.model, bits.drafter, DRAFTER_WEIGHTS, leaf)
    return ShapedPair(target, drafter, nbytes)


def _unload(model: nn.Module, bits: int, role: str, leaf: Leaf) -> int:
    """Leaves in the place of a model's weights, floats as bfloat16; their bytes."""
    if bits < 16:
        nn.quantize(model, group_size=GROUP, bits=bits)

    def unloaded(_: str, value: mx.array) -> mx.array:
        floats = mx.issubdtype(value.dtype, mx.floating)
        return leaf(role, value.shape, mx.bfloat16 if floats else value.dtype)

    model.update(tree_map_with_path(unloaded, model.parameters()))
    return sum(value.nbytes for _, value in tree_flatten(model.parameters()))


class RoundBuilder:
    """Builds the graphs of rounds of a pair, traced as in serving or operation by operation."""

    def __init__(self, pair: ShapedPair, leaf: Leaf, traced: bool = False) -> None:
        self._pair = pair
        self._leaf = leaf
        stores = {
            TARGET: ModelStore(pair.target.cache_specs),
            DRAFTER: ModelStore(pair.drafter.cache_specs),
        }
        self._stores = stores
        self._plain = Rounds(pair.target, {}, {TARGET: stores[TARGET]}, traced)
        self._drafting = Rounds(pair.target, {DRAFTER: pair.drafter}, stores, traced)

    def close(self) -> None:
        """Let the traces go."""
        self._plain.close()
        self._drafting.close()

    def caches(self, kind: RoundKind) -> Caches:
        """Leaves for what the rows of a round hold."""
        specs: dict[str, Sequence[LayerSpec]] = {TARGET: self._pair.target.cache_specs}
        if kind.block > 1:
            specs[DRAFTER] = self._pair.drafter.cache_specs
        tokens = kind.context + kind.block
        return {
            name: [self._row(layers, tokens) for _ in range(kind.rows)]
            for name, layers in specs.items()
        }

    def _row(self, specs: Sequence[LayerSpec], tokens: int) -> Row:
        row: Row = self._leaves([_store(spec).fit([], tokens) for spec in specs])
        return row

    def _leaves(self, tree: Any) -> Any:
        """Leaves of the shapes of all arrays."""
        return tree_map(lambda one: self._leaf(CACHES, one.shape, one.dtype), tree)

    def inputs(self, kind: RoundKind) -> RoundRows:
        """Anchors, lengths and blocks of the rows, as leaves."""
        return RoundRows(*(self._leaf(ACTIVATIONS, (kind.rows,), mx.int32) for _ in range(3)))

    def round(self, kind: RoundKind, rows: RoundRows, caches: Caches) -> tuple[mx.array, Caches]:
        """What the runner evaluates: the verdict and the rows' arrays."""
        drafting = kind.block > 1
        capacities = (bucket(kind.context + kind.block),) * kind.rows
        groups = _groups(kind)
        kinds = tuple(group.kind for group in groups)
        shape = RoundShape(kind.block, capacities, drafting, kinds=kinds)
        rounds = self._drafting if drafting else self._plain
        verdict, after = rounds.run(shape, rows, groups, caches)
        return verdict.packed, after

    def settle(self, kind: RoundKind, caches: Caches) -> list[mx.array]:
        """What the runner evaluates behind a round: the writing of what was left."""
        settled = [
            self._stores[name].settled(row, kind.context)
            for name, rows in caches.items()
            for row in rows
        ]
        return arrays_of(settled)

    def evaluated(self, caches: Caches) -> Caches:
        """Leaves of the same shapes: what a round leaves to the next graph."""
        made: Caches = self._leaves(caches)
        return made


def _groups(kind: RoundKind) -> tuple[RowGroup, ...]:
    sampling = _SAMPLED if kind.sampled else SamplingParams()
    return group_rows([ChoiceRow(sampling, kind.context + 1)] * kind.rows, kind.block)


def _store(spec: LayerSpec) -> AttentionStore | StateStore:
    return AttentionStore(spec) if isinstance(spec, AttentionSpec) else StateStore(spec)


def arrays_of(tree: Any) -> list[mx.array]:
    """All arrays of caches or of their rows."""
    found: list[tuple[str, mx.array]] = tree_flatten(tree)
    return [array for _, array in found]
