"""The cores a process may use: those of its affinity, less what control groups take away."""

import os
import sys
from pathlib import Path

import pytest

from dflash_serve.kernels.cores import usable_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")


def machine(root: Path, group: str, quotas: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    for folder, quota in quotas.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpu.max").write_text(quota)
    return root


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("group", "quotas"),
    [
        ("/", {"": "100000 100000\n"}),
        ("/a/b", {"a/b": "199999 100000\n", "a": "max 100000\n"}),
        ("/a/b", {"a/b": "max 100000\n", "a": "150000 100000\n"}),
        ("/a", {"a": "5000 100000\n"}),
    ],
)
def test_the_smallest_quota_around_counts_in_whole_cores(
    tmp_path: Path, group: str, quotas: dict[str, str]
) -> None:
    assert usable_cores(machine(tmp_path, group, quotas)) == 1


def test_no_quota_takes_nothing_away(tmp_path: Path) -> None:
    root = machine(tmp_path, "/a", {"a": "max 100000\n", "": "6400000 100000\n"})
    assert usable_cores(root) == min(64, len(os.sched_getaffinity(0)))
