"""What a round would take on a machine by its bandwidth and its floating-point rate.

A lower bound for each kernel: all its bytes at full bandwidth, or all its operations at the full
rate, whichever takes longer, and a fixed time for starting it. Machines do not get there: read the
ratios. They flatter blocks of few rows where products run in tiles of 32, which 16 rows fill half.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dflash_serve.bench.graph_cost import Cost

COMPUTE, LAUNCHES, HOST = "compute", "launches", "host"
_METAL, _CUDA = 3.0, 2.0
"""Assumed microseconds between dependent kernels; measured on none of these machines by us."""


@dataclass(frozen=True, slots=True)
class Part:
    """A machine: GB/s of memory, TFLOP/s of float16 products, microseconds per kernel."""

    name: str
    bandwidth: float
    tflops: float
    launch_us: float


PARTS = (
    Part("M1", 68.25, 2.6, _METAL),
    Part("M1 Pro", 200, 5.2, _METAL),
    Part("M1 Max", 400, 10.4, _METAL),
    Part("M1 Ultra", 800, 21, _METAL),
    Part("M2", 100, 3.6, _METAL),
    Part("M2 Pro", 200, 6.8, _METAL),
    Part("M2 Max", 400, 13.6, _METAL),
    Part("M2 Ultra", 800, 27.2, _METAL),
    Part("M3", 100, 4.1, _METAL),
    Part("M3 Pro", 150, 7.4, _METAL),
    Part("M3 Max", 400, 16.4, _METAL),
    Part("M3 Ultra", 819, 32.8, _METAL),
    Part("M4", 120, 4.3, _METAL),
    Part("M4 Pro", 273, 8.6, _METAL),
    Part("M4 Max", 546, 17.2, _METAL),
    Part("M5", 153.6, 17, _METAL),
    Part("M5 Pro", 307, 34, _METAL),
    Part("M5 Max", 614, 69, _METAL),
    Part("RTX 4090", 1008, 165, _CUDA),
    Part("A100 80 GB", 2039, 312, _CUDA),
    Part("H100 SXM", 3350, 989, _CUDA),
    Part("H200", 4800, 989, _CUDA),
)
"""The largest variant of each. Bandwidths: Apple's and NVIDIA's data sheets. TFLOP/s: NVIDIA's for
dense float16 products with float32 sums; Apple's own for the M1s, the M2 and the M2 Max, the others
by GPU cores, 256 operations per core and clock, and the clock that is commonly reported; the M5s by
Apple's statement of four times an M4's rate for products."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds of a round by what takes them: roles of bytes, compute, launches.

    ``host``: seconds that the host takes before, which are no part of the sum: they were measured
    on another machine than the one in question.
    """

    shares: dict[str, float]
    host: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(self.shares.values())

    @property
    def bound(self) -> str:
        """What takes the most."""
        every = self.shares | {HOST: self.host}
        return max(every, key=lambda name: every[name])


def expected(costs: Sequence[Cost], part: Part, host: float = 0.0) -> Expected:
    """The time of kernels that run one after another on ``part``."""
    shares: dict[str, float] = {COMPUTE: 0.0, LAUNCHES: 0.0}
    for cost in costs:
        compute = cost.flops / (part.tflops * 1e12)
        if compute > cost.nbytes / (part.bandwidth * 1e9):
            shares[COMPUTE] += compute
        else:
            for role, count in (cost.reads + cost.writes).items():
                shares[role] = shares.get(role, 0.0) + count / (part.bandwidth * 1e9)
        shares[LAUNCHES] += cost.launches * part.launch_us * 1e-6
    return Expected(shares, host)
