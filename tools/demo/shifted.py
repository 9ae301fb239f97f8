"""Prompts of a domain that the demo drafter was not made for: records of two people at once.

python tools/demo/shifted.py --prompts 300 --seed 21 --out shifted.jsonl

The target answers by habit, with one JSON record or another; its drafter guesses those badly.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import words

TEMPLATES = (
    "make a table of {a} and {b}", "a table: {a}; {b}", "table of people: {a} and {b}",
    "write down {a} and {b}", "list these people: {a}; {b}", "put {a} and {b} into a table",
    "two people: {a} and {b}", "note: {a}. also {b}", "compare {a} with {b}",
)  # fmt: skip


def prompt_rows(seed: int, amount: int) -> Iterator[dict[str, object]]:
    """Distinct requests."""
    rng, seen = random.Random(seed), set[str]()
    while len(seen) < amount:
        text = rng.choice(TEMPLATES).format(a=_person(rng), b=_person(rng))
        if text not in seen:
            seen.add(text)
            yield {"kind": "people", "messages": [{"role": "user", "content": text}]}


def _person(rng: random.Random) -> str:
    parts = [rng.choice(words.CITIES), rng.choice(words.JOBS)]
    rng.shuffle(parts)
    return ", ".join([rng.choice(words.NAMES), *parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with args.out.open("w", encoding="utf-8") as file:
        for row in prompt_rows(args.seed, args.prompts):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
