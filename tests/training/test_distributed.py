"""Two processes on this machine, over MLX's ring on loopback, against one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dflash_serve.training.run.distributed import Processes
from tests.training.runs import World

SUMS = """
import json, sys
import dflash_serve
import mlx.core as mx
from dflash_serve.measure.errors import DataError
from dflash_serve.training.run.distributed import Processes
here = Processes.joined()
tree = {"b": mx.full((2, 2), 1.5 + here.rank), "a": [mx.array(here.rank + 1), mx.ones(3)]}
total = here.sum(tree)
odd = mx.array([-0.0, 1e-30, 3.0]) if here.first else mx.ones(3)
shared = here.shared({"x": odd, "y": mx.array(7 - here.rank, mx.uint64)})
told = here.told({"rank": here.rank, "word": "ä"})
try:
    here.check_same({"same": 1, "rank": here.rank})
    refusal = None
except DataError as error:
    refusal = str(error)
here.check_same({"same": 1})
print(json.dumps([total["b"].tolist(), total["a"][0].item(), total["a"][1].tolist(),
    [str(v) for v in shared["x"].tolist()], shared["y"].item(), told, refusal,
    here.total([0.5, here.rank])]))
"""


TWICE = """
import shutil, sys
from pathlib import Path
from dflash_serve.training.cli import main
from dflash_serve.training.run.distributed import Processes
out, kept, dropped, *words = sys.argv[1:]
for more in ([], ["--resume"]):
    sys.argv = ["dflash-train", *words, *more]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
    here = Processes.joined()
    here.total([0.0])
    if here.first and not more:
        shutil.copytree(out, kept)
        shutil.rmtree(Path(out) / dropped)
    here.total([0.0])
"""
"""A run; then, from the checkpoint before the last, its second half once more."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def launch(root: Path, command: list[str], size: int = 2) -> list[str]:
    """What `mlx.launch -n 2` does: a hosts file, a rank, a process each. Returns the outputs."""
    hosts = root / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]))
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | {"MLX_HOSTFILE": str(hosts), "MLX_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * size, outputs
    return [out for out, _ in outputs]


def test_sums_and_what_the_first_process_says_are_the_same_on_both(tmp_path: Path) -> None:
    told = [json.loads(out) for out in launch(tmp_path, [sys.executable, "-c", SUMS])]
    refusals = [row.pop(6) for row in told]
    assert told[0] == told[1]
    total_b, total_a, ones, x, y, facts, numbers = told[0]
    assert (total_b, total_a, ones) == ([[4.0, 4.0], [4.0, 4.0]], 3, [2.0, 2.0, 2.0])
    assert x == ["-0.0", "1.0000000031710769e-30", "3.0"]
    assert (y, facts, numbers) == (7, {"rank": 0, "word": "ä"}, [1.0, 1.0])
    assert "process 1 differs in rank" in refusals[1]
    assert "the processes must be given the same" in refusals[0]


def test_two_processes_train_what_one_does_bit_for_bit(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    options = {"steps": 6, "batch": 4, "checkpoint_every": 3}
    assert world.invoke("one", **options, accumulate=2).exit_code == 0
    two, kept = world.root / "two", world.root / "kept"
    first, second = launch(
        tmp_path,
        [
            *(sys.executable, "-c", TWICE, str(two), str(kept), "checkpoints/step-00000006"),
            *world.arguments("two", **options),
        ],
    )
    assert first.count("best drafter: ") == 2
    assert "going on behind step 3" in first
    assert second == ""
    for row_one, row_two in zip(world.log("one"), world.log("kept"), strict=True):
        for name in ("loss", "norm", "accuracy", "tokens_per_round", "tokens"):
            assert row_one.get(name) == row_two.get(name)
    for name in ("model.safetensors", "last/model.safetensors", "config.json"):
        one = (world.root / "one" / name).read_bytes()
        assert one == (kept / name).read_bytes() == (two / name).read_bytes()
    steps = [row["step"] for row in world.log("two") if "loss" in row]
    assert steps == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert world.losses("two") == world.losses("one")


def test_a_process_alone_has_nothing_to_tell() -> None:
    alone = Processes.joined()
    assert (alone.rank, alone.size, alone.first) == (0, 1, True)
    assert alone.total([1.5]) == [1.5]
    assert alone.told({"a": 1}) == {"a": 1}
    alone.check_same({"a": 1})


@pytest.mark.parametrize("name", ["sum", "shared"])
def test_alone_a_tree_stays_the_same_object(name: str) -> None:
    tree = {"a": []}
    assert getattr(Processes(), name)(tree) is tree
