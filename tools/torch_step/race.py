"""dflash-train run against a PyTorch trainer: the same answers, recipe, start and minutes.

Each trains by itself with the same number of threads; then both drafters walk answers that nobody
has seen. PyTorch gets the target's features for free; dflash-train computes them, measures and
writes checkpoints within its minutes.

    python tools/torch_step/race.py --torch-python TORCH/bin/python --target DIR \
        --data answers.jsonl --heldout heldout.jsonl --judge judge.jsonl --minutes 20 \
        --out docs/results/NAME.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dflash_serve  # noqa: F401  # puts its matmul under MLX, which must not be loaded yet

# isort: split
import mlx.core as mx
import numpy as np
from matplotlib.figure import Figure
from mlx.utils import tree_flatten, tree_unflatten

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import resolve
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_target
from dflash_serve.bench.report import Destination, show, table, write
from dflash_serve.measure.figures import Acceptance
from dflash_serve.measure.results import Result
from dflash_serve.training.data.answers import read_answers
from dflash_serve.training.drafter.initialise import load_trainable
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.job import begin
from dflash_serve.training.run.measure import walk_answers
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.step.blocks import default_gamma

HERE = Path(__file__).parent
MEMORY = 4 << 30  # of features
_TRAIN = "from dflash_serve.training.cli import main; main()"  # the command dflash-train


def write_start(folder: Path, settings: RunSettings, target: TargetAdapter) -> DFlashDrafter:
    """All that the PyTorch trainer reads; the drafter that both begin with."""
    drafter = begin(settings, resolve(settings.target), target).drafter
    config = drafter.config
    if any(kind != (None, False) for kind in config.layer_kinds) or config.selector_rank:
        raise SystemExit("the PyTorch trainer knows full, not causal layers alone")
    examples = [answer.example() for answer in read_answers(settings.data)]
    store = FeatureStore(target, drafter.target_layer_ids, examples, 0)
    taps = [store.batch([i], example.length).taps[0] for i, example in enumerate(examples)]
    model = drafter.model
    arrays = {f"drafter.{name}": value for name, value in tree_flatten(model.parameters())}
    arrays["embedding"] = drafter.embed_block(mx.arange(config.vocab_size)[None])[0]
    arrays["taps"] = mx.concatenate(taps).astype(mx.float16)
    arrays["tokens"] = mx.array(np.concatenate([e.tokens for e in examples]).astype(np.int32))
    arrays["mask"] = mx.array(np.concatenate([e.loss_mask for e in examples]).astype(np.uint8))
    arrays["ends"] = mx.array(np.cumsum([e.length for e in examples]))
    mx.save_safetensors(str(folder / "race.safetensors"), arrays)
    (folder / "settings.json").write_text(json.dumps(torch_settings(drafter, settings)))
    return drafter


def torch_settings(drafter: DFlashDrafter, settings: RunSettings) -> dict[str, Any]:
    config = drafter.config
    return {
        "config": {
            "hidden": config.hidden_size,
            "inner": config.intermediate_size,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "taps": len(config.target_layer_ids),
            "layers": config.num_layers,
            "mask_id": config.mask_token_id,
            "rope_theta": config.rope_theta,
            "eps": config.rms_norm_eps,
        },
        "block": config.block_size,
        "gamma": default_gamma(config.block_size),
        "rate": settings.course.peak,
        **{name: getattr(settings, name) for name in _SHARED},
    }


_SHARED = ("batch", "anchors", "minutes", "warmup", "clip", "seed")


def timed(command: list[str], threads: int) -> tuple[float, str]:
    """Wall seconds of a process, and what it printed last."""
    count = str(threads)
    environ = os.environ | {"OMP_NUM_THREADS": count, "DFLASH_BLAS_THREADS": count}
    started = time.perf_counter()
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - started, done.stdout.strip().splitlines()[-1]


def worth(drafter: DFlashDrafter, target: TargetAdapter, heldout: Path) -> dict[str, float]:
    """Tokens per round on held-out answers, of each response and pooled."""
    examples = [turn for answer in read_answers(heldout) for turn in answer.turns()]
    store = FeatureStore(target, drafter.target_layer_ids, examples, MEMORY)
    found = Acceptance.of(walk_answers(drafter, store, examples, drafter.block_size))
    return {
        "tokens_per_round": found.tokens_per_round,
        "tokens_per_round_pooled": found.tokens_per_round_pooled,
        "responses": found.responses,
    }


def race(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    out = folder / "ours"
    settings = RunSettings(
        target=given.target, data=given.data, out=out, minutes=given.minutes,
        layers=given.layers, block_size=given.block_size, anchors=given.anchors,
        batch=given.batch,
    )  # fmt: skip
    target = load_target(resolve(given.target))
    drafter = write_start(folder, settings, target)
    begun = worth(drafter, target, given.judge)
    torch_command = [str(given.torch_python), str(HERE / "torch_trainer.py"), str(folder)]
    seconds, said = timed([*torch_command, str(given.threads)], given.threads)
    drafter.model.update(tree_unflatten(list(mx.load(str(folder / "torch.safetensors")).items())))
    theirs = {**worth(drafter, target, given.judge), "wall_seconds": seconds, **json.loads(said)}
    command = [sys.executable, "-c", _TRAIN, "run"]
    for name in ("target", "data", "minutes", "layers", "block_size", "anchors", "batch"):
        command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    command += ["--heldout", str(given.heldout), "--out", str(out)]
    seconds, _ = timed(command, given.threads)
    ours = {**worth(load_trainable(out, target), target, given.judge), "wall_seconds": seconds}
    return {"start": begun, "torch": theirs, "ours": ours}


def plot(found: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(found), [one["tokens_per_round"] for one in found.values()])
    axes.set(title="tokens per round, mean over responses")
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True, help="dflash-train chooses by it")
    parser.add_argument("--judge", type=Path, required=True, help="nobody has seen it")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--anchors", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = race(given, Path(folder))
    names = ("tokens_per_round", "tokens_per_round_pooled", "wall_seconds")
    rows = [(name, *(one.get(column) for column in names)) for name, one in found.items()]
    show(table("from the same start", ("", *names), rows))
    settings = {name: str(value) for name, value in vars(given).items() if name != "torch_python"}
    failures = []
    if found["ours"]["tokens_per_round"] < found["torch"]["tokens_per_round"]:
        failures.append("PyTorch's drafter commits more tokens per round")
    write(
        Result("torch-race", settings, found, failures), Destination(given.out), lambda: plot(found)
    )
    for line in failures:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
