"""A DFlash trainer in PyTorch over what race_start.py wrote.

The published recipe: distinct anchors in the answers, drawn anew in each epoch, slot weights that
decay, AdamW, a cosine rate.
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drafter_torch import Batch, Config, Drafter, Step
from safetensors.torch import load_file, save_file
from torch import Tensor


class Sequences:
    """Tokens, answer masks and features of all sequences, one behind the other."""

    def __init__(self, arrays: dict[str, Tensor], settings: dict[str, Any]) -> None:
        ends = arrays["ends"].numpy()
        self._starts = np.concatenate([[0], ends[:-1]])
        self.lengths = ends - self._starts
        self._tokens, self._mask = arrays["tokens"].numpy(), arrays["mask"].numpy().astype(bool)
        self._taps, self._order = arrays["taps"], arrays["order"].numpy()
        self._block, self._count = settings["block"], settings["anchors"]
        self._weights = np.exp(-(np.arange(1, self._block) - 1) / settings["gamma"])
        self._rng = np.random.default_rng(settings["seed"])

    def batches(self) -> Iterator[Batch]:
        for rows in self._order:
            yield self._batch(rows[rows >= 0])

    def _batch(self, rows: np.ndarray) -> Batch:
        size, count, block = len(rows), self._count, self._block
        taps = torch.zeros(size, int(self.lengths[rows].max()), self._taps.shape[1])
        anchors = np.zeros((size, count), np.int32)
        labels = np.zeros((size, count, block), np.int32)
        weights = np.zeros((size, count, block), np.float32)
        for place, row in enumerate(rows):
            start, length = self._starts[row], self.lengths[row]
            tokens, mask = (a[start : start + length] for a in (self._tokens, self._mask))
            taps[place, :length] = self._taps[start : start + length].float()
            drawn = np.sort(self._rng.permutation(np.flatnonzero(mask[:-1] & mask[1:]))[:count])
            at = drawn[:, None] + np.arange(block)
            inside = at < length
            at = np.minimum(at, length - 1)
            anchors[place, : len(drawn)] = drawn
            labels[place, : len(drawn)] = tokens[at]
            counted = (inside & mask[at])[:, 1:]
            weights[place, : len(drawn), 1:] = counted * self._weights
        visible = torch.ones(size, count, dtype=torch.int32)
        return Batch(taps, *(torch.from_numpy(a) for a in (anchors, labels, weights)), visible)


def rate_at(progress: float, settings: dict[str, Any]) -> float:
    if progress < settings["warmup"]:
        return settings["rate"] * max(0.05, progress / settings["warmup"])
    falling = (progress - settings["warmup"]) / (1 - settings["warmup"])
    return settings["rate"] * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))


def train(folder: Path, deadline: float, threads: int) -> dict[str, Any]:
    """Train until the monotonic clock shows ``deadline``, and write torch.safetensors."""
    torch.set_num_threads(threads)
    settings = json.loads((folder / "settings.json").read_text())
    arrays = load_file(folder / "race.safetensors")
    drafter = Drafter(Config(**settings["config"]), arrays["embedding"])
    drafter.load_state_dict(
        {name[8:]: value for name, value in arrays.items() if name.startswith("drafter.")}
    )
    step = Step(drafter, rate=settings["rate"], clip=settings["clip"], compiled=False)
    count, loss, begun = 0, 0.0, time.monotonic()
    for batch in Sequences(arrays, settings).batches():
        now = time.monotonic()
        if now >= deadline:
            break
        loss = step(batch, rate_at((now - begun) / (deadline - begun), settings))
        count += 1
    else:
        raise SystemExit("the order of the batches ended before the time")
    save_file(drafter.state_dict(), folder / "torch.safetensors")
    return {"steps": count, "loss": loss, "seconds_of_training": now - begun}
