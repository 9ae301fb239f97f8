"""Measured costs of rounds, on disk: a file per pair and settings, for the machine it was made on.

Lies in the user's cache folder. What does not fit machine, versions, weights and settings is
measured anew, and so is what cannot be read.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from dflash_serve import provenance
from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.atomic_files import replace_json
from dflash_serve.compose.options import EngineOptions
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.kernels import cpu_blas

_log = logging.getLogger("dflash_serve")
_SETTINGS = ("max_batch", "max_context", "memory_limit", "drafter_bits", "cpu_weights")
_SWITCHES = "DFLASH_"


class CostFile:
    """A `CostStore`: the costs at ``path``, which hold for ``origin`` alone."""

    def __init__(self, path: Path, origin: Mapping[str, Any]) -> None:
        self._path = path
        self._origin = json.loads(json.dumps(origin))

    def read(self) -> tuple[CostPoint, ...]:
        """The points, or nothing if there are none that can be used."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if found["origin"] != self._origin:
                _log.info("round costs in %s are of another origin: measured anew", self._path)
                return ()
            return tuple(CostPoint(*point) for point in found["points"])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())
            _log.warning("round costs in %s cannot be used (%s): measured anew", self._path, reason)
            return ()

    def write(self, points: Sequence[CostPoint]) -> None:
        """Keep ``points``; a folder that cannot be written to is a warning."""
        rows = [[point.rows, point.width, point.seconds] for point in points]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_json(self._path, {"origin": self._origin, "points": rows})
        except OSError as error:
            _log.warning("round costs are measured at every start: %s", error)


def cost_file(
    options: EngineOptions, target: Path, drafter: Path | None, block: int
) -> CostFile | None:
    """Where the costs of rounds of a pair are kept; None if nobody asks for them."""
    if drafter is None or not options.adaptive:
        return None
    folder = _folder()
    if folder is None:
        _log.warning("round costs are measured at every start: the user has no home folder")
        return None
    pair = {
        "target": fingerprint(target),
        "drafter": fingerprint(drafter),
        "block": block,
        **{name: getattr(options, name) for name in _SETTINGS},
    }
    name = hashlib.sha256(json.dumps(pair).encode()).hexdigest()[:16]
    return CostFile(folder / f"{name}.json", pair | _here())


def _here() -> dict[str, Any]:
    """Machine, versions and switches that rounds depend on."""
    blas = cpu_blas.status()
    return {
        "machine": {k: v for k, v in provenance.machine().items() if k != "load_average"},
        "versions": provenance.versions(),
        "commit": (provenance.commit() or {}).get("hash"),
        "device": str(mx.default_device()),
        "matmul": [blas.state.value, blas.isa, blas.threads],
        "switches": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_SWITCHES)},
    }


def _folder() -> Path | None:
    """As the XDG base directory specification has it."""
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = root if root.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "dflash-serve" / "round-costs"
