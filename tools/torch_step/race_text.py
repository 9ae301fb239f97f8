"""Prompts and a tokenizer from the sources of Python's own standard library, on any machine.

race_text.py OUT writes train.jsonl, heldout.jsonl and judge.jsonl, whose functions are of different
source files, pretrain.jsonl with the functions of the first, and target/, the tokenizer.
"""

import argparse
import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))

from tokenizer import SPECIAL, save  # noqa: E402  # of the demo: the chat template and its tokens
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

LIBRARY = Path(os.__file__).parent
VOCABULARY = 4096
_OTHERS = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
_MOST = 2400  # characters of a function
_ASKED = 3  # lines of a function that the prompt shows, at least


@dataclass(frozen=True, slots=True)
class Piece:
    """The beginning of a function, and the rest of it."""

    prompt: str
    rest: str


def sources(root: Path) -> list[Path]:
    """Files of the library itself, in order."""
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted(path for path in found if not _OTHERS & set(path.parts))


def part_of(path: Path) -> str:
    """Which set the functions of a file belong to; one in sixteen is held out, one judges."""
    number = hashlib.sha256(path.as_posix().encode()).digest()[0] % 16
    return {0: "heldout", 1: "judge"}.get(number, "train")


def pieces(source: str) -> Iterator[Piece]:
    """Functions of at least twice the lines that a prompt shows, without their indentation."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        own = [line[node.col_offset :] for line in lines[node.lineno - 1 : node.end_lineno]]
        if len(own) < 2 * _ASKED or len("\n".join(own)) > _MOST:
            continue
        shown = max(_ASKED, len(own) // 4)
        yield Piece("\n".join(own[:shown]), "\n".join(own[shown:]))


def read(root: Path) -> dict[str, list[Piece]]:
    """The functions of each set, in an order that the names of files do not give away."""
    found: dict[str, list[Piece]] = {"train": [], "heldout": [], "judge": []}
    for path in sources(root):
        try:
            made = list(pieces((root / path).read_text(encoding="utf-8")))
        except (SyntaxError, UnicodeDecodeError):
            continue  # files that show what does not compile
        found[part_of(path)] += made
    seen: set[str] = set()  # the same beginning may stand in several files
    for name in ("judge", "heldout", "train"):
        new = {one.prompt: one for one in found[name] if one.prompt not in seen}
        seen |= new.keys()
        digest = {prompt: hashlib.sha256(prompt.encode()).digest() for prompt in new}
        found[name] = [new[prompt] for prompt in sorted(new, key=digest.__getitem__)]
    return found


def make_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=800, help="prompts")
    parser.add_argument("--heldout", type=int, default=48, help="prompts")
    parser.add_argument("--judge", type=int, default=64, help="prompts")
    given = parser.parse_args()
    found = read(LIBRARY)
    given.out.mkdir(parents=True, exist_ok=True)
    for name, made in found.items():
        rows = [{"kind": "python", "prompt": one.prompt} for one in made[: vars(given)[name]]]
        write(given.out / f"{name}.jsonl", rows)
    known = [{"prompt": one.prompt, "rest": one.rest} for one in found["train"]]
    write(given.out / "pretrain.jsonl", known)
    texts = [f"{one.prompt}\n{one.rest}" for one in found["train"]]
    save(make_tokenizer(texts, VOCABULARY), given.out / "target")
    print({name: len(made) for name, made in found.items()})


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
