"""Graphs as on a GPU, built on any machine and never evaluated.

Without a GPU MLX builds its fused functions out of a dozen operations each. Here each leaves one
node, as its GPU back end would run it, and so do weights and caches, which need no memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx

from dflash_serve.kernels.dispatch import built

LEAF = "Leaf"
"""The kind of a node that nothing computes: a weight, a cache or another input."""
_SHORT = 8
"""Queries that MLX's kernel for few of them takes."""
_LONG_DIMS = (64, 72, 80, 96, 128)
_SHORT_DIMS = (64, 96, 128, 256)
"""Sizes of heads that attention runs as one kernel for: other sizes stay operations."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """A node that stands for what a GPU runs; ``label``: a kernel's name, or a leaf's role."""

    kind: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class StandIns:
    """The stand-ins of one graph, by the number that each of them carries as its first input."""

    made: list[StandIn] = field(default_factory=list)

    def leaf(self, role: str, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        """An array of a graph's beginning, without memory."""
        return self.node(StandIn(LEAF, role), [(tuple(shape), dtype)], [])[0]

    def node(
        self,
        stand_in: StandIn,
        outputs: Sequence[tuple[tuple[int, ...], mx.Dtype]],
        inputs: Sequence[mx.array],
    ) -> list[mx.array]:
        """Arrays that depend on ``inputs``: a `Depends` node, whose kind the number tells."""
        number = mx.array(len(self.made), dtype=mx.int32)
        self.made.append(stand_in)
        blank = [mx.broadcast_to(mx.array(0, dtype=dtype), shape) for shape, dtype in outputs]
        return list(mx.depends(blank, [number, *inputs]))

    def like(self, stand_in: StandIn, x: mx.array, *others: Any, **options: Any) -> mx.array:
        """An array like ``x`` that depends on it and on all other arrays that are given."""
        given = (x, *others, *options.values())
        inputs = [one for one in given if isinstance(one, mx.array)]
        return self.node(stand_in, [(x.shape, x.dtype)], inputs)[0]


@contextmanager
def gpu_form(stand_ins: StandIns) -> Iterator[None]:
    """Within it graphs are built as for Metal; what they hold can be walked, not evaluated.

    MLX decides in C++ which form a function leaves, by the device of its stream, and a CPU build
    makes no stream on a GPU. So the functions themselves are exchanged while this is open.
    """
    with ExitStack() as stack:
        stack.callback(built.cache_clear)
        built.cache_clear()
        exchanges: list[tuple[Any, str, Callable[..., Any]]] = [
            (mx, "default_device", lambda: mx.Device(mx.gpu)),
            (mx.metal, "is_available", lambda: True),
            (mx, "dequantize", _dequantize(stand_ins)),
            (mx, "contiguous", partial(stand_ins.like, StandIn("Contiguous"))),
            (mx.fast, "rms_norm", partial(stand_ins.like, StandIn("RMSNorm"))),
            (mx.fast, "rope", _rope(stand_ins)),
            (mx.fast, "scaled_dot_product_attention", _attention(stand_ins)),
            (mx.fast, "metal_kernel", _metal_kernel(stand_ins)),
        ]
        for place, name, function in exchanges:
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, function)
        yield


def _rope(stand_ins: StandIns) -> Callable[..., mx.array]:
    def rope(x: mx.array, dims: int, **options: Any) -> mx.array:
        label = "" if dims == x.shape[-1] else "part"
        return stand_ins.like(StandIn("RoPE", label), x, **options)

    return rope


def _attention(stand_ins: StandIns) -> Callable[..., mx.array]:
    operations = mx.fast.scaled_dot_product_attention

    def attention(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
        dims = _SHORT_DIMS if q.shape[2] <= _SHORT else _LONG_DIMS
        if q.shape[-1] not in dims or v.shape[-1] != q.shape[-1]:
            return operations(q, k, v, **options)
        return stand_ins.like(StandIn("ScaledDotProductAttention"), q, k, v, **options)

    return attention


def _dequantize(stand_ins: StandIns) -> Callable[..., mx.array]:
    def dequantize(
        w: mx.array, scales: mx.array, biases: mx.array | None = None, **options: Any
    ) -> mx.array:
        inner = w.shape[-1] * 32 // (options.get("bits") or 4)
        inputs = [array for array in (w, scales, biases) if array is not None]
        output = ((*w.shape[:-1], inner), options.get("dtype") or scales.dtype)
        return stand_ins.node(StandIn("Dequantize"), [output], inputs)[0]

    return dequantize


def _metal_kernel(stand_ins: StandIns) -> Callable[..., Any]:
    def metal_kernel(name: str, *_: Any, **__: Any) -> Callable[..., list[mx.array]]:
        def launch(
            *,
            inputs: Sequence[Any],
            output_shapes: Sequence[tuple[int, ...]],
            output_dtypes: Sequence[mx.Dtype],
            **_: Any,
        ) -> list[mx.array]:
            outputs = list(zip(output_shapes, output_dtypes, strict=True))
            arrays = [one for one in inputs if isinstance(one, mx.array)]  # others are constants
            return stand_ins.node(StandIn("CustomKernel", name), outputs, arrays)

        return launch

    return metal_kernel
