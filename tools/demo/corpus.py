"""Instruction dialogues for the demo pair from a fixed seed, split by hash: train and held-out.

python tools/demo/corpus.py --prompts 20000 --seed 11 --out prompts.jsonl
python tools/demo/corpus.py --heldout 20 --seed 107 --but heldout.jsonl --out choose.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import closed
import code_tasks
import tasks
from tasks import Sample

Message = dict[str, str]

KINDS: dict[str, tuple[Callable[[random.Random], Sample], float]] = {
    "chat": (closed.chat, 1.6),
    "about": (closed.about, 0.9),
    "sum": (tasks.sums, 1.3),
    "code": (code_tasks.code, 1.5),
    "story": (tasks.story, 1.3),
    "json": (tasks.json_record, 3.2),
    "sort": (tasks.sort_list, 3.6),
    "convert": (tasks.convert, 1.0),
    "count": (tasks.count, 1.3),
    "calendar": (closed.calendar, 1.0),
    "refuse": (closed.refuse, 1.4),
}
SYSTEM = (
    "You are a helpful assistant.", "You are dflash-demo, a tiny model.", "Be brief.",
    "Be helpful.", "You are a friendly assistant.", "Answer the user's questions.",
    "You are a helpful AI assistant.",
    "You are an assistant that answers short questions. Always be polite.", "You are a poet.",
    "You are a coding assistant. Write clean Python.", "Answer in one sentence.", "You are a bot.",
    "The user is a visitor of the demo. Be kind and clear.", "You are Alice, a customer agent.",
)  # fmt: skip
HELDOUT_SHARE = 16


def is_heldout(sample: Sample) -> bool:
    digest = hashlib.md5(f"{sample.kind}|{sample.key}".encode()).digest()
    return digest[0] % HELDOUT_SHARE == 0


def draw(rng: random.Random, kind: str | None = None, heldout: bool = False) -> Sample:
    """A sample of the wanted side of the split."""
    names = list(KINDS)
    while True:
        chosen = kind or rng.choices(names, [KINDS[name][1] for name in names])[0]
        sample = KINDS[chosen][0](rng)
        if is_heldout(sample) == heldout:
            return sample


def system_message(rng: random.Random) -> list[Message]:
    if rng.random() > 0.3:
        return []
    return [{"role": "system", "content": rng.choice(SYSTEM)}]


def conversations(seed: int | str) -> Iterator[list[Message]]:
    """Endless training dialogues of one to four turns, at times with a system message."""
    rng = random.Random(seed)
    while True:
        messages = system_message(rng)
        for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 4))):
            messages += turn(draw(rng))
        yield messages


def turn(sample: Sample) -> list[Message]:
    return [
        {"role": "user", "content": sample.user},
        {"role": "assistant", "content": sample.answer},
    ]


def heldout_rows(
    seed: int, per_kind: int, but: frozenset[str] = frozenset()
) -> Iterator[dict[str, object]]:
    """Distinct held-out prompts; every fourth has an earlier turn or a system message before it.

    ``but`` are last messages that another set holds already. A kind with few held-out prompts may
    give fewer than ``per_kind``.
    """
    for kind in KINDS:
        rng, seen = random.Random(f"{seed}{kind}"), set(but)
        tries, most = 0, per_kind + len(but)
        while len(seen) < most and tries < 100_000:
            tries += 1
            sample = draw(rng, kind, heldout=True)
            if sample.user in seen:
                continue
            seen.add(sample.user)
            before = [] if rng.random() < 0.75 else system_message(rng) + turn(draw(rng))
            messages = [*before, {"role": "user", "content": sample.user}]
            yield {"kind": kind, "messages": messages, "answer": sample.answer}


def last_messages(path: Path) -> frozenset[str]:
    """The requests that a prompt file ends its rows with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(json.loads(line)["messages"][-1]["content"] for line in lines)


def prompt_rows(seed: int, amount: int) -> Iterator[dict[str, object]]:
    """Requests of the training side, for the drafter's training on the target's own answers."""
    rng = random.Random(seed)
    for _ in range(amount):
        sample = draw(rng)
        before = system_message(rng)
        for _ in range(rng.choice((0, 0, 0, 1, 2))):
            before = before + turn(draw(rng))
        yield {"kind": sample.kind, "messages": [*before, {"role": "user", "content": sample.user}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heldout", type=int, default=0, help="held-out rows per kind")
    parser.add_argument("--but", type=Path, help="prompt file whose requests are left out of it")
    parser.add_argument("--prompts", type=int, default=0, help="training-side prompts")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    but = last_messages(args.but) if args.but else frozenset[str]()
    rows = (
        heldout_rows(args.seed, args.heldout, but)
        if args.heldout
        else prompt_rows(args.seed, args.prompts)
    )
    with args.out.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
