"""Pre-trains a target with PyTorch on freshly drawn dialogues; started again, it goes on.

python tools/demo/pretrain_target.py --target target --steps 6000 --seed 1
python tools/demo/pretrain_target.py --family qwen3_5 --target hybrid --steps 2000 --seed 1

The folder holds the tokenizer and receives the model. What a step learns from depends on the seed
and the step alone. The stored weights are the average over the last steps.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from corpus import heldout_rows
from dialogues import TOKENS_PER_PIECE, Encoder, Piece, piece
from muon import Muon
from qwen3_5_torch import HybridShape, Qwen35
from qwen3_torch import Qwen3, Shape
from safetensors.torch import save_file
from team import LOSSES, Checkpoints, Team
from tokenizers import Tokenizer
from torch import Tensor

Model = Qwen3 | Qwen35

SHORT, LONG = 256, 512
TOKENS_PER_STEP = TOKENS_PER_PIECE * LOSSES
REPORT_EVERY = 50
WATCH_SEED = 207
"""Of the held-out prompts that the log's exact match is on; nothing is chosen by it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run learns and how; shares are of the run's steps."""

    family: str
    steps: int
    seed: int
    workers: int
    matrix_rate: float
    other_rate: float
    warm: float = 0.02
    fall_from: float = 0.4
    floor: float = 0.05
    long_from: float = 0.7
    average_from: float = 0.9

    def rate(self, step: int) -> float:
        """Warm-up, a plateau, then a straight line to the floor, times the peak rate."""
        progress = (step + 1) / self.steps
        if progress < self.warm:
            return progress / self.warm
        return min(1.0, max(self.floor, (1.0 - progress) / (1.0 - self.fall_from)))

    def length(self, step: int) -> int:
        """Tokens per row: every second step of the last part has long ones."""
        return LONG if step >= self.long_from * self.steps and step % 2 else SHORT


def loss_of(model: Model, batch: Piece) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch.inputs)
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), reduction="none"
    )
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


def work(
    rank: int,
    team: Team,
    encoder: Encoder,
    settings: Settings,
    checkpoints: Checkpoints,
    every: int,
) -> None:
    """The loop of one worker; rank 0 also reports."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # sent when the parent dies; a shell may ignore it
    os.setsid()  # Linux shares a core by session: two workers in one session get one share
    if hasattr(os, "sched_setaffinity"):  # the scheduler was seen to keep both on one core
        os.sched_setaffinity(0, {rank % (os.cpu_count() or 1)})
    team.adopt(rank)
    optimiser = Muon(team.share_of(rank), settings.matrix_rate, settings.other_rate)
    checkpoints.restore(optimiser, rank)
    first = checkpoints.first_step()
    log = Log(team, settings, first) if rank == 0 else None
    average_from = int(settings.average_from * settings.steps)
    for step in range(first, settings.steps):
        for slot in range(rank, LOSSES, settings.workers):
            batch = piece(encoder, f"{settings.seed}/{step}/{slot}", settings.length(step))
            loss = loss_of(team.model, batch)
            (loss / LOSSES).backward()
            team.losses[slot] = loss.detach()
        team.wait()
        team.exchange(rank)
        optimiser.step(settings.rate(step))
        if step >= average_from:
            team.take_average(rank, step - average_from)
        if log:
            log.step(step + 1)
        team.wait()
        team.clear(rank)
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            checkpoints.save(team, optimiser, rank, step + 1)


class Log:
    """Progress lines of rank 0."""

    def __init__(self, team: Team, settings: Settings, first: int) -> None:
        self._team = team
        self._settings = settings
        self._first = first
        self._start = time.monotonic()
        self._losses: list[float] = []

    def step(self, step: int) -> None:
        """Called between the barriers, when no worker writes its loss."""
        self._losses.append(self._team.losses.mean().item())
        if step % REPORT_EVERY and step != self._settings.steps:
            return
        seconds = time.monotonic() - self._start
        speed = (step - self._first) * TOKENS_PER_STEP / seconds
        left = (self._settings.steps - step) * TOKENS_PER_STEP / speed / 60
        print(
            f"step {step} of {self._settings.steps}, {step * TOKENS_PER_STEP} tokens, "
            f"loss {np.mean(self._losses):.4f}, {speed:.0f} tokens/s, {left:.0f} minutes left",
            flush=True,
        )
        self._losses = []


@torch.no_grad()
def exact_match(model: Model, encoder: Encoder, per_kind: int) -> dict[str, float]:
    """Share of held-out answers that greedy decoding would give word for word.

    Greedy output equals the answer if and only if every argmax along the answer is right.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for row in heldout_rows(WATCH_SEED, per_kind):
        ids, begin = encoder.answered(row["messages"], str(row["answer"]))  # type: ignore[arg-type]
        tokens = torch.tensor(ids)
        guess = model(tokens[None])[0].argmax(-1)
        right[str(row["kind"])].append(bool((guess[begin - 1 : -1] == tokens[begin:]).all()))
    return {kind: float(np.mean(values)) for kind, values in right.items()}


def save(model: Model, encoder: Encoder, out: Path) -> None:
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = model.shape.config(encoder.end, encoder.pad)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {
        "do_sample": False,
        "eos_token_id": [encoder.end, encoder.pad],
        "pad_token_id": encoder.pad,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")


def train(settings: Settings, out: Path, checkpoint_every: int, watched: int) -> None:
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    encoder = Encoder(Tokenizer.from_file(str(out / "tokenizer.json")))
    model = Qwen35(HybridShape()) if settings.family == "qwen3_5" else Qwen3(Shape())
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {settings}", flush=True)
    team = Team(model, settings.workers)
    checkpoints = Checkpoints(out / "checkpoints", asdict(settings))
    if (first := checkpoints.first_step()) > 0:
        checkpoints.load(team)
        print(f"goes on after step {first}", flush=True)
    shared = (team, encoder, settings, checkpoints, checkpoint_every)
    mp.start_processes(work, shared, nprocs=settings.workers, start_method="fork", daemon=True)
    team.use_average()
    save(model, encoder, out)
    scores = exact_match(model, encoder, watched)
    print("exact match, teacher-forced, in float32: " + "  ".join(
        f"{kind} {100 * score:.1f} %" for kind, score in scores.items()
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True, help="directory with the tokenizer")
    parser.add_argument("--family", choices=("qwen3", "qwen3_5"), default="qwen3")
    parser.add_argument("--steps", type=int, required=True, help=f"of {TOKENS_PER_STEP} tokens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, choices=(1, 2, 4), default=2)
    parser.add_argument("--rate", type=float, default=0.02, help="peak, of matrices (Muon)")
    parser.add_argument("--other-rate", type=float, default=0.003, help="peak, of the rest (AdamW)")
    parser.add_argument("--checkpoint-every", type=int, default=250, help="steps")
    parser.add_argument(
        "--watched", type=int, default=100, help="held-out prompts per kind, at the end"
    )
    args = parser.parse_args()
    settings = Settings(
        args.family, args.steps, args.seed, args.workers, args.rate, args.other_rate
    )
    train(settings, args.target, args.checkpoint_every, args.watched)


if __name__ == "__main__":
    main()
