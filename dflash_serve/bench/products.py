"""Times MLX's CPU matmul by shape, with the library that is under MLX in this process.

A script of its own for `kernels`, whose imports take longer than most products do.
"""

import json
import sys
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dflash_serve.bench.turns import Timing, for_seconds
from dflash_serve.measure.results import blas

_SECONDS = 1.5  # a slow product is repeated less often, but thrice at least


@dataclass(frozen=True, slots=True)
class Shape:
    """x[m, k] times w[n, k] transposed (``weight``), or times v[k, n]."""

    name: str
    m: int
    n: int
    k: int
    weight: bool = True


SHAPES = (
    *(Shape("projection", m, 3584, 1024) for m in (1, 4, 8, 16, 32, 64, 256)),
    *(Shape("demo projection", m, 768, 192) for m in (1, 8, 64)),
    *(Shape("attention scores", m, 512, 64) for m in (1, 8, 16)),
    *(Shape("attention values", m, 64, 512, weight=False) for m in (1, 8, 16)),
)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """The library in use, and the timings of each of the job's shapes."""
    with mx.stream(mx.cpu):
        cells = [_time(Shape(**shape), job["repeats"]) for shape in job["shapes"]]
    return {"blas": blas(), "timings": cells}


def _time(shape: Shape, repeats: int) -> list[Timing]:
    """MLX's own dispatch is part of every call."""
    mx.random.seed(0)
    x = mx.random.normal((shape.m, shape.k))
    other = mx.random.normal((shape.n, shape.k) if shape.weight else (shape.k, shape.n))

    def multiply() -> None:
        mx.eval(x @ (other.T if shape.weight else other))

    multiply()
    return for_seconds(multiply, _SECONDS, least=3, most=repeats)


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))
