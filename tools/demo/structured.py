"""Adds a target's answers under a JSON schema to an answer file; started again, it goes on.

A drafter that is to help with structured output has to see it: under a schema the target writes
the record without the code fence that it would put around it.

    python tools/demo/structured.py --target target --prompts prompts.jsonl \\
        --answers answers.jsonl --out all.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dflash_serve import LLM
from dflash_serve.bench.processing import RECORD
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data.answers import Answer, AnswerFile, read_answers, read_origin

AT_ONCE = 64
MAX_NEW = 160
FORMAT = {"type": "json_schema", "json_schema": {"name": "record", "schema": RECORD}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="its JSON requests are taken")
    parser.add_argument("--answers", type=Path, required=True, help="kept, and comes first")
    parser.add_argument("--amount", type=int, default=2000, help="most answers under the schema")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    plain = read_answers(options.answers)
    out = AnswerFile(options.out, read_origin(options.answers) | {"structured": RECORD})
    for answer in plain:
        if answer.row not in out.done:
            out.append([answer])
    rows = [json.loads(line) for line in options.prompts.read_text(encoding="utf-8").splitlines()]
    chats = [row["messages"] for row in rows if row["kind"] == "json"][: options.amount]
    first = 1 + max(answer.row for answer in plain)
    left = [(first + at, chat) for at, chat in enumerate(chats) if first + at not in out.done]
    for made, answer in enumerate(structured(options.target, left), start=1):
        out.append([answer])
        if made % AT_ONCE == 0:
            print(f"{made} of {len(left)} answers under the schema", flush=True)
    out.close()


def structured(target: Path, chats: list[tuple[int, Any]]) -> Iterator[Answer]:
    """Greedy answers under the schema, by row; those that reach no end are left out."""
    tokenizer = ChatTokenizer.load(target)
    with LLM(target, "none", max_batch=AT_ONCE) as llm:
        for at in range(0, len(chats), AT_ONCE):
            some = chats[at : at + AT_ONCE]
            asked = [chat for _, chat in some]
            made = llm.chat(asked, temperature=0, max_tokens=MAX_NEW, response_format=FORMAT)
            for (row, chat), answer in zip(some, made, strict=True):
                if answer.finish_reason == "stop":
                    prompt = tokenizer.encode_chat(chat, {})
                    tokens = np.array((*prompt, *answer.token_ids), dtype=np.int32)
                    yield Answer(row, "schema", tokens, ((len(prompt), len(tokens)),))


if __name__ == "__main__":
    main()
