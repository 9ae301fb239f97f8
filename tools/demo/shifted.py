"""Prompts of a domain that the demo drafter was not made for: requests for SQL.

python tools/demo/shifted.py --prompts 300 --seed 21 --out shifted.jsonl

The demo target knows no SQL and answers by habit, often with a Python function that was not asked
for; its drafter, which never saw that, guesses badly.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import words

TEMPLATE = "write SQL: select {j} from {c} where age {s} {n}"


def prompt_rows(seed: int, amount: int) -> Iterator[dict[str, object]]:
    """Distinct requests."""
    rng, seen = random.Random(seed), set[str]()
    while len(seen) < amount:
        text = TEMPLATE.format(
            j=rng.choice(words.JOBS),
            c=rng.choice(words.CITIES),
            s=rng.choice("<>="),
            n=rng.randint(1, 99),
        )
        if text not in seen:
            seen.add(text)
            yield {"kind": "sql", "messages": [{"role": "user", "content": text}]}


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
