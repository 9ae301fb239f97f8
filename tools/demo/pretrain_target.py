"""Pre-trains the demo target with PyTorch on freshly drawn dialogues, then writes a checkpoint.

python tools/demo/pretrain_target.py --minutes 40 --seed 1 --target dflash_serve/demo/target
python tools/demo/pretrain_target.py --minutes 30 --seed 1 --family qwen3_5 --target hybrid
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from corpus import Message, conversations, heldout_rows
from muon import Muon
from qwen3_5_torch import HybridShape, Qwen35
from qwen3_torch import Qwen3, Shape
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

Model = Qwen3 | Qwen35

PROMPT_WEIGHT = 0.05
SHORT, LONG = 256, 512
TOKENS_PER_PIECE = 512
PIECES_PER_STEP = 4
TOKENS_PER_STEP = TOKENS_PER_PIECE * PIECES_PER_STEP


class Encoder:
    """Dialogues to token ids and loss weights, exactly as the chat template would render them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.start, self.end, self.pad = (
            tokenizer.token_to_id(token)
            for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
        )
        self._newline = self.text("\n")

    def text(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def dialogue(self, messages: list[Message]) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for message in messages:
            head = [self.start, *self.text(message["role"] + "\n")]
            body = [*self.text(message["content"].strip()), self.end]
            weight = 1.0 if message["role"] == "assistant" else PROMPT_WEIGHT
            ids += head + body + self._newline
            weights += [0.0] * len(head) + [weight] * len(body) + [0.0] * len(self._newline)
        return ids, weights


def rows(encoder: Encoder, seed: int, length: int) -> Iterator[tuple[list[int], list[float]]]:
    """Rows of whole dialogues one after another, cut at the row's end."""
    stream = conversations(seed)
    while True:
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length + 1:
            messages = next(stream)
            if ids and messages[0]["role"] == "system":
                messages = messages[1:]
            more, more_weights = encoder.dialogue(messages)
            ids += more
            weights += more_weights
        yield ids[: length + 1], weights[: length + 1]


def batches(encoder: Encoder, seed: int, length: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    source = rows(encoder, seed, length)
    while True:
        drawn = [next(source) for _ in range(TOKENS_PER_PIECE // length)]
        ids = torch.tensor([row[0] for row in drawn])
        weights = torch.tensor([row[1] for row in drawn])
        yield ids[:, :-1], ids[:, 1:], weights[:, 1:]


def loss_of(model: torch.nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    inputs, targets, weights = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(inputs)
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def rate(progress: float, warm: float) -> float:
    """Warm-up, a plateau, then a straight line to zero."""
    if progress < warm:
        return progress / warm
    return min(1.0, (1.0 - progress) / 0.6)


@torch.no_grad()
def exact_match(model: Model, encoder: Encoder, per_kind: int, seed: int = 7) -> dict[str, float]:
    """Share of held-out answers that greedy decoding would give word for word.

    Greedy output equals the answer if and only if every argmax along the answer is right.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for row in heldout_rows(seed, per_kind):
        answer = {"role": "assistant", "content": str(row["answer"])}
        ids, weights = encoder.dialogue([*row["messages"], answer])  # type: ignore[misc]
        begin = len(ids) - len(encoder.text("\n")) - len(encoder.text(str(row["answer"]))) - 1
        guess = model(torch.tensor([ids]))[0].argmax(-1)
        wanted = torch.tensor(ids)[begin : len(weights) - 1]
        right[str(row["kind"])].append(bool((guess[begin - 1 : len(ids) - 2] == wanted).all()))
    return {kind: float(np.mean(values)) for kind, values in right.items()}


def save(model: Model, encoder: Encoder, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
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


class Team:
    """Worker processes over one shared model: each takes the next piece of a step when it is free.

    One thread each and no barrier inside a layer: a core that others use slows only its own pieces.
    """

    def __init__(self, model: Model, workers: int) -> None:
        self.model = model.share_memory()
        self.workers = workers
        self.gradients = [
            [torch.zeros_like(p).share_memory_() for p in model.parameters()]
            for _ in range(workers)
        ]
        self._taken = mp.Value("i", 0)
        self._barrier = mp.Barrier(workers)
        self._progress = mp.Value("d", 0.0)

    def adopt(self, rank: int) -> None:
        """Let autograd of this process accumulate into the buffers of its rank."""
        for parameter, gradient in zip(self.model.parameters(), self.gradients[rank], strict=True):
            parameter.grad = gradient

    def share_of(self, rank: int) -> list[tuple[str, nn.Parameter]]:
        """The parameters that this rank updates."""
        return list(self.model.named_parameters())[rank :: self.workers]

    @property
    def progress(self) -> float:
        """Elapsed share of the run, 1.0 at its end; rank 0 sets it between two steps."""
        return float(self._progress.value)

    @progress.setter
    def progress(self, value: float) -> None:
        self._progress.value = value

    def take(self) -> bool:
        with self._taken.get_lock():
            self._taken.value += 1
            return bool(self._taken.value <= PIECES_PER_STEP)

    def wait(self) -> None:
        self._barrier.wait()

    def exchange(self, rank: int) -> None:
        """Between two barriers: sum the gradients of this rank's share over all workers."""
        for i in range(rank, len(self.gradients[0]), self.workers):
            for other in range(self.workers):
                if other != rank:
                    self.gradients[rank][i] += self.gradients[other][i]

    def clear(self, rank: int) -> None:
        for gradient in self.gradients[rank]:
            gradient.zero_()
        if rank == 0:
            self._taken.value = 0


def work(rank: int, team: Team, encoder: Encoder, args: argparse.Namespace) -> None:
    """The loop of one worker; rank 0 also reports and saves."""
    torch.set_num_threads(1)
    os.setsid()  # Linux shares a core by session: two workers in one session get one share
    if hasattr(os, "sched_setaffinity"):  # the scheduler was seen to keep both on one core
        os.sched_setaffinity(0, {rank % (os.cpu_count() or 1)})
    team.adopt(rank)
    optimiser = Muon(team.share_of(rank), args.rate, args.other_rate)
    seed = 100 * args.seed + 2 * rank
    short, long = (batches(encoder, seed + i, n) for i, n in enumerate((SHORT, LONG)))
    log = Log(team.model, encoder, args) if rank == 0 else None
    while (progress := team.progress) < 1.0:
        loss = 0.0
        while team.take():
            batch = next(long if progress > args.long_from and rank == 0 else short)
            piece = loss_of(team.model, batch) / PIECES_PER_STEP
            piece.backward()
            loss = piece.item() * PIECES_PER_STEP
        team.wait()
        team.exchange(rank)
        optimiser.step(rate(progress, args.warm))
        team.wait()
        team.clear(rank)
        if log:
            team.progress = log.step(loss)
        team.wait()
    if log:
        log.finish()


class Log:
    """Progress lines, regular checkpoints and the final report."""

    def __init__(self, model: Model, encoder: Encoder, args: argparse.Namespace) -> None:
        self._model = model
        self._encoder = encoder
        self._out: Path = args.out or args.target
        self._every: float = args.save_every
        self._length: float = 60 * args.minutes
        self._start = self._saved = time.monotonic()
        self._steps = 0

    def step(self, loss: float) -> float:
        """Count a step; returns the elapsed share of the run."""
        self._steps += 1
        now = time.monotonic()
        if self._steps % 20 == 0:
            print(f"{self._totals()} loss {loss:.4f}", flush=True)
        if now - self._saved > self._every:
            self._saved = now
            self._save(8)
        return (now - self._start) / self._length

    def finish(self) -> None:
        print(f"end: {self._totals()}")
        self._save(60)

    def _totals(self) -> str:
        seconds = time.monotonic() - self._start
        tokens = self._steps * TOKENS_PER_STEP
        return f"{self._steps} steps {seconds:.0f} s {tokens} tokens {tokens / seconds:.0f}/s"

    def _save(self, per_kind: int) -> None:
        save(self._model, self._encoder, self._out)
        scores = exact_match(self._model, self._encoder, per_kind)
        print("  ".join(f"{kind} {100 * score:.0f}%" for kind, score in scores.items()), flush=True)


def make_model(args: argparse.Namespace) -> Model:
    if args.family == "qwen3_5":
        return Qwen35(HybridShape(layers=args.layers or 4, intermediate=args.intermediate or 896))
    return Qwen3(Shape(layers=args.layers or 8, intermediate=args.intermediate or 576))


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    encoder = Encoder(Tokenizer.from_file(str(args.target / "tokenizer.json")))
    model = make_model(args)
    if args.init:
        model.load_state_dict({k: v.float() for k, v in load_file(args.init).items()})
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    team = Team(model, args.workers)
    mp.start_processes(work, (team, encoder, args), nprocs=args.workers, start_method="fork")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True, help="directory with the tokenizer")
    parser.add_argument("--out", type=Path, help="checkpoint directory (default: --target)")
    parser.add_argument("--init", type=Path, help="model.safetensors to start from")
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--family", choices=("qwen3", "qwen3_5"), default="qwen3")
    parser.add_argument("--layers", type=int, help="default: 8, or 4 of qwen3_5")
    parser.add_argument("--intermediate", type=int, help="default: 576, or 896 of qwen3_5")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--other-rate", type=float, default=0.003)
    parser.add_argument("--warm", type=float, default=0.02)
    parser.add_argument("--long-from", type=float, default=0.7)
    parser.add_argument("--save-every", type=float, default=120.0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
