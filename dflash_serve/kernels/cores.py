"""How many processor cores this process may keep busy on Linux."""

import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """The cores this process may run on, or fewer where its control groups have smaller quotas.

    ``root`` holds ``proc`` and ``sys``.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas(root)]))


def _quotas(root: Path) -> list[int]:
    """Whole cores that each control group (version 2) around this process allows."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    place = next((line.removeprefix("0::/") for line in groups if line.startswith("0::/")), None)
    if place is None:
        return []
    top = root / "sys/fs/cgroup"
    folder = top / place
    quotas = [_quota(folder)]
    while folder != top:
        folder = folder.parent
        quotas.append(_quota(folder))
    return [quota for quota in quotas if quota is not None]


def _quota(folder: Path) -> int | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) // int(period)
