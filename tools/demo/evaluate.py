"""Exact match of a target directory on held-out prompts, by greedy decoding with mlx-lm in float32.

python tools/demo/evaluate.py --target dflash_serve/demo/target --per-kind 20 --json scores.json
python tools/demo/evaluate.py --target hybrid --logits logits.safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dflash_serve  # noqa: F401 - before mlx: the optimised matmul on Linux

# isort: split
import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm import load
from mlx_lm.models.cache import make_prompt_cache

from dflash_serve.provenance import commit

MAX_TOKENS = 200
MOST_DIFFERENCE = 1e-4  # of the largest logit: float32 rounds


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the model said to one held-out prompt."""

    kind: str
    prompt: str
    wanted: str
    said: str
    ended: bool

    @property
    def right(self) -> bool:
        return self.ended and self.said == self.wanted


class Target:
    """A loaded target that answers greedily, one prompt at a time."""

    def __init__(self, path: Path) -> None:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
        known = {"model_type": kind.removesuffix("_text")}  # mlx-lm's name for a text model alone
        self._model, self._tokenizer = load(str(path), model_config=known)[:2]
        floats = tree_map(lambda x: x.astype(mx.float32), self._model.parameters())
        self._model.update(floats)

    def logits(self, tokens: mx.array) -> mx.array:
        """[1, T] -> [1, T, V]."""
        return self._model(tokens)

    def answer(self, messages: list[dict[str, str]]) -> tuple[str, bool]:
        tokens = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        cache = make_prompt_cache(self._model)
        said: list[int] = []
        feed = mx.array([tokens])
        for _ in range(MAX_TOKENS):
            token = int(mx.argmax(self._model(feed, cache=cache)[0, -1]).item())
            if token in self._tokenizer.eos_token_ids:
                return self._tokenizer.decode(said), True
            said.append(token)
            feed = mx.array([[token]])
        return self._tokenizer.decode(said), False


def judge(target: Target, rows: list[dict[str, Any]], per_kind: int) -> list[Verdict]:
    taken: dict[str, int] = defaultdict(int)
    verdicts = []
    for row in rows:
        taken[row["kind"]] += 1
        if taken[row["kind"]] <= per_kind:
            said, ended = target.answer(row["messages"])
            prompt = row["messages"][-1]["content"]
            verdicts.append(Verdict(row["kind"], prompt, row["answer"], said, ended))
    return verdicts


def summary(verdicts: list[Verdict]) -> dict[str, dict[str, float]]:
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for verdict in verdicts:
        by_kind[verdict.kind].append(verdict.right)
    by_kind["all"] = [verdict.right for verdict in verdicts]
    return {
        kind: {"prompts": len(marks), "right": sum(marks), "exact": sum(marks) / len(marks)}
        for kind, marks in by_kind.items()
    }


def show(scores: dict[str, dict[str, float]], verdicts: list[Verdict]) -> None:
    for kind, score in scores.items():
        counts = f"{score['right']:>5.0f} / {score['prompts']:<5.0f}"
        print(f"{kind:<10} {counts} {100 * score['exact']:6.1f} %")
    for verdict in verdicts:
        if not verdict.right:
            print(f"\n[{verdict.kind}] {verdict.prompt}")
            print(f"  wanted {verdict.wanted!r}\n  said   {verdict.said!r}")


def compare(target: Target, path: Path) -> bool:
    """Whether the model says what `hybrid_logits.py` wrote."""
    known = mx.load(str(path))
    wanted = known["logits"]
    difference = mx.abs(target.logits(known["tokens"]) - wanted).max().item()
    largest = mx.abs(wanted).max().item()
    print(f"largest difference {difference:.1e}, largest logit {largest:.1f}")
    return difference < MOST_DIFFERENCE * largest


def free(target: Target, prompts: list[str]) -> None:
    """Print the answers to prompts of one's own, one per line of a file."""
    for prompt in prompts:
        said, ended = target.answer([{"role": "user", "content": prompt}])
        print(f"> {prompt}\n{said}{'' if ended else ' [cut]'}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, default=Path("dflash_serve/demo/heldout.jsonl"))
    parser.add_argument("--per-kind", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write scores and mistakes there")
    parser.add_argument("--free", type=Path, help="answer this file's lines instead")
    parser.add_argument("--logits", type=Path, help="compare with this file's instead")
    args = parser.parse_args()
    target = Target(args.target)
    if args.logits:
        sys.exit(not compare(target, args.logits))
    if args.free:
        return free(target, args.free.read_text(encoding="utf-8").splitlines())
    rows = [json.loads(line) for line in args.heldout.read_text(encoding="utf-8").splitlines()]
    verdicts = judge(target, rows, args.per_kind)
    scores = summary(verdicts)
    show(scores, verdicts)
    if args.json:
        mistakes = [asdict(verdict) for verdict in verdicts if not verdict.right]
        found = {"commit": commit(), "scores": scores, "mistakes": mistakes}
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
