"""What a round costs on machines that are not at hand, from sizes and peak figures.

Estimates, meant to have the shapes that a policy meets: flat, steep, stepped. No clock, no device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

_BLOCK = 16
_CONTEXT = 1024
"""Tokens that each row holds."""
_DEFERRED = 32
"""Tokens of context that plain rounds leave to be written at once."""
_TILE = 32
"""Rows that a quantised matrix product computes at once, used or not."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Seconds of a whole round of some rows, by their padded width.

    ``plain``: one token per row, without a drafter. ``round``: draft and verify; at width 1 only
    the drafter's context is kept. ``block``: the widest round.
    """

    name: str
    block: int
    plain: Callable[[int], float]
    round: Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class _Device:
    """Bytes and FLOPs per second, and the seconds that a target's kernels take to launch."""

    bandwidth: float
    flops: float
    launch: float


@dataclass(frozen=True, slots=True)
class _Network:
    """What one forward reads and computes.

    weights: bytes that every forward reads. flops: per token. kv: bytes read per row. experts:
    number, of which each token uses ``used``, and bytes of one over all layers. steep: rise per
    token, in parts of the first, of a product that unpacks its weights again for each. kernels: in
    parts of the target's.
    """

    weights: float
    flops: float
    kernels: float = 1.0
    kv: float = 0.0
    experts: int = 0
    used: int = 0
    expert: float = 0.0
    steep: float = 0.0

    def seconds(self, device: _Device, rows: int, width: int) -> float:
        """One forward over ``rows`` x ``width`` tokens."""
        tokens = rows * width
        touched = 0.0
        if self.experts:
            touched = self.experts * (1.0 - (1.0 - self.used / self.experts) ** tokens)
        read = (self.weights + touched * self.expert) / device.bandwidth
        compute = tokens * self.flops / device.flops
        if self.steep:
            tiled = -(-tokens // _TILE) * _TILE * self.flops / device.flops
            compute = min(read * (1 + self.steep * (tokens - 1)), max(read, tiled))
        # work and traffic overlap, though not wholly
        launch = self.kernels * device.launch
        return launch + float(np.hypot(read, compute)) + rows * self.kv / device.bandwidth


def interpolated(
    name: str, plain: Mapping[int, float], rounds: Mapping[int, Mapping[int, float]]
) -> Machine:
    """Measured seconds by rows, those of rounds by width first; linear between two rows."""

    def at(times: Mapping[int, float], rows: int) -> float:
        return float(np.interp(rows, list(times), list(times.values())))

    return Machine(
        name, max(rounds), partial(at, plain), lambda rows, width: at(rounds[width], rows)
    )


def _pair(
    name: str, device: _Device, target: _Network, drafter: _Network, context: _Network
) -> Machine:
    @cache
    def plain(rows: int) -> float:
        return target.seconds(device, rows, 1)

    @cache
    def round_(rows: int, width: int) -> float:
        verify = target.seconds(device, rows, width)
        if width == 1:
            return verify + context.seconds(device, rows, _DEFERRED) / _DEFERRED
        draft = drafter.seconds(device, rows, width)
        return verify + draft + context.seconds(device, rows, width)

    return Machine(name, _BLOCK, plain, round_)


_GPU, _LAPTOP = _Device(3.3e12, 6e14, 2e-4), _Device(4e11, 1.2e13, 5e-4)
"""A data-centre GPU, and a laptop's."""


def machines() -> list[Machine]:
    """All estimates.

    8B parameters in 16 bits, flat until some hundred tokens; in 4 bits, where every token of a
    narrow product costs; 30B, 3B of them active, in 4 bits, where more tokens touch more experts.
    """
    return [
        _pair(
            "bf16, bandwidth-bound",
            _GPU,
            _Network(16.4e9, 16.4e9, kv=147e3 * _CONTEXT),
            _Network(3.3e9, 3.3e9, 0.15, kv=20e3 * _CONTEXT),
            _Network(0.25e9, 0.25e9, 0.02),
        ),
        _pair(
            "4 bits, steep",
            _LAPTOP,
            _Network(4.6e9, 16.4e9, kv=147e3 * _CONTEXT, steep=0.25),
            _Network(0.93e9, 3.3e9, 0.15, kv=20e3 * _CONTEXT, steep=0.25),
            _Network(0.07e9, 0.25e9, 0.02, steep=0.25),
        ),
        _pair(
            "experts",
            _LAPTOP,
            _Network(0.85e9, 6e9, kv=98e3 * _CONTEXT, experts=128, used=8, expert=0.127e9),
            _Network(0.35e9, 1.2e9, 0.15, kv=16e3 * _CONTEXT),
            _Network(0.03e9, 0.1e9, 0.02),
        ),
    ]
