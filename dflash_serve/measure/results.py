"""The JSON of a measurement: what every results file carries. Knows nothing of what is measured."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dflash_serve.kernels import cpu_blas
from dflash_serve.provenance import origin


@dataclass(frozen=True, slots=True)
class Result:
    """One command's outcome. ``measured`` and ``settings`` hold JSON values only.

    ``failures``: why the command must not exit with 0, one line each.
    """

    name: str
    settings: Mapping[str, Any]
    measured: Mapping[str, Any]
    failures: Sequence[str] = ()


def document(result: Result) -> dict[str, Any]:
    """The whole JSON object of a result, with machine, versions, commit and matmul."""
    return {
        "name": result.name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": sys.argv[1:],
        **origin(),
        "blas": blas(),
        "settings": dict(result.settings),
        "results": dict(result.measured),
        "failures": list(result.failures),
    }


def blas() -> dict[str, Any]:
    """The state of the matmul under MLX in this process."""
    status = cpu_blas.status()
    return {
        "state": status.state.value,
        "isa": status.isa,
        "threads": status.threads,
        "reason": status.reason,
    }


def uncommitted(made: Mapping[str, Any]) -> str | None:
    """What to say beside a result of a tree that no commit holds; None where one does.

    ``made``: a `document`. Outside a checkout there is nothing to say.
    """
    commit = made["commit"]
    if commit is None or not commit["dirty"]:
        return None
    return f"not to be published: measured with changes that are not in commit {commit['hash'][:9]}"
