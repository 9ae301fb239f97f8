"""What becomes of 16-bit and quantised weights in a CPU's memory. Knows sizes, no arrays."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from dflash_serve.adapters.base import AdapterError

_MARGIN = 1 << 30
"""Bytes that stay free beside float32 weights: the caches of a first request, and a forward."""
_LITTLE = 0.05
"""What adds no more than this part of the weights may always become float32."""
_CGROUP = Path("/sys/fs/cgroup")


class CpuWeights(StrEnum):
    """``--cpu-weights``: what is fastest and has room, float32 in any case, or as stored.

    Fastest are 16-bit weights as float32, 4 and 8 bit ones as stored where the extension multiplies
    them, and other quantised ones as float32. As stored, the 16-bit parts of a quantised checkpoint
    are float32 where there is room: they give activations their dtype.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    STORED = "stored"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes as ``stored``, and what float32 adds to 16-bit tensors and to quantised ones."""

    stored: int
    half: int
    quantised: int

    @property
    def extra(self) -> int:
        return self.half + self.quantised


@dataclass(frozen=True, slots=True)
class Widening:
    """Which weights become float32."""

    half: bool
    quantised: bool


def choose(wanted: CpuWeights, sizes: Sizes, what: str) -> Widening:
    """What ``wanted`` means for a checkpoint and the memory that is free now.

    Raises:
        AdapterError: float32 is wanted and does not fit; with the bytes of both.
    """
    available = available_memory()
    fits = widens(sizes.stored, sizes.extra, available)
    if wanted is CpuWeights.FLOAT32 and not fits:
        raise AdapterError(
            f"{what}: --cpu-weights is float32, which takes {sizes.stored + sizes.extra} bytes and "
            f"{_MARGIN} beside them, but {available} are available"
        )
    if fits and wanted is not CpuWeights.STORED:
        return Widening(half=True, quantised=sizes.quantised > 0)
    if wanted is CpuWeights.STORED and not sizes.quantised:
        return Widening(half=sizes.half <= _LITTLE * sizes.stored, quantised=False)
    return Widening(half=widens(sizes.stored, sizes.half, available), quantised=False)


def widens(stored: int, extra: int, available: int) -> bool:
    """Whether weights that take ``stored`` bytes, and ``extra`` as float32, have room for both."""
    return extra <= _LITTLE * stored or stored + extra + _MARGIN <= available


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control group."""
    machine = int(psutil.virtual_memory().available)
    group = group_memory(_CGROUP)
    return machine if group is None else min(machine, group)


def group_memory(group: Path) -> int | None:
    """What a control group's limit leaves, with the files it has cached; None without a limit."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if not limit.isdigit():
        return None
    cached = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, int(limit) - used + cached)
