"""A real server over checkpoints that cannot be used: one line, exit code 2, before it serves."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from tests.e2e.conftest import Start
from tests.e2e.server import PairPaths, run_each
from tests.tiny import reconfigure

Damage = Callable[[PairPaths], object]
WEIGHTS = "model.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, mx.array]], object]) -> None:
    weights = dict(mx.load(str(path)))
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights)


def make_no_number(pair: PairPaths) -> None:
    def change(weights: dict[str, mx.array]) -> None:
        weights["model.norm.weight"][5] = float("nan")

    rewrite(pair.target / WEIGHTS, change)


def lose_a_tensor(pair: PairPaths) -> None:
    rewrite(pair.drafter / WEIGHTS, lambda weights: weights.pop("fc.weight"))


DAMAGES: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "model type": (
        lambda pair: reconfigure(pair.target, model_type="gpt_unknown"),
        ("model_type 'gpt_unknown' is not supported",),
    ),
    "shape": (
        lambda pair: reconfigure(pair.target, hidden_size="64"),
        ("hidden_size is '64', but must be a positive integer",),
    ),
    "quantisation": (
        lambda pair: reconfigure(pair.target, quantization={"bits": 7, "group_size": 64}),
        ("quantization is mode 'affine', bits 7, group_size 64", "MLX cannot run here"),
    ),
    "missing tensor": (lose_a_tensor, ("drafter lacks 1 tensor(s), first fc.weight",)),
    "no number": (
        make_no_number,
        ("target/model.safetensors: model.norm.weight has 1 value(s) of 64 that are NaN",),
    ),
}


SHOWN_BY_FILES = {"model type", "shape"}


def damaged(pair: PairPaths, to: Path, name: str) -> list[str]:
    """Options of a server for a copy of the pair that is damaged so."""
    copy = PairPaths(to / name / "target", to / name / "drafter")
    shutil.copytree(pair.target, copy.target)
    shutil.copytree(pair.drafter, copy.drafter)
    DAMAGES[name][0](copy)
    return copy.options()


def test_each_is_refused_with_one_line(pair: PairPaths, tmp_path: Path) -> None:
    """What files show is refused before the port is taken, and nothing else is written.

    A port that another process holds is no reason to give before the checkpoint's.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        ports = {name: port if name in SHOWN_BY_FILES else "0" for name in DAMAGES}
        logs = run_each(
            [[*damaged(pair, tmp_path, name), "--port", ports[name]] for name in DAMAGES]
        )
    for (name, (_, named)), log in zip(DAMAGES.items(), logs, strict=True):
        lines = log.splitlines()
        if name not in SHOWN_BY_FILES:
            lines = [line for line in lines if "INFO" not in line]
        line, end = lines
        assert line.startswith("dflash-serve: error: "), (name, log)
        assert all(part in line for part in named), (name, line)
        assert end == "exit code 2", (name, log)
        assert "serving" not in log


def test_weights_that_are_refused_when_they_are_loaded_end_the_process(
    pair: PairPaths, start: Start, tmp_path: Path
) -> None:
    """By then other threads run."""
    server = start(*damaged(pair, tmp_path, "no number"), "--port", "0")
    assert server.exit_code() == 2, server.log
    [line] = [line for line in server.log.splitlines() if "INFO" not in line]
    assert line.startswith("dflash-serve: error: ")
