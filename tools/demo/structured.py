"""Adds the demo target's answers under a JSON schema to an answer file.

A drafter that is to help with structured output has to see it: under a schema the target writes
the record without the code fence that it would put around it.

    python tools/demo/structured.py --prompts prompts.jsonl --answers answers.jsonl --out all.jsonl
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.bench.pair import DEMO
from dflash_serve.bench.processing import RECORD
from dflash_serve.bench.workloads import stop_tokens
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.grammar import Grammar, GrammarCompiler, from_json_schema
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, FinishReason
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data.answers import Answer, AnswerFile, read_answers, read_origin

TARGET, DRAFTER = DEMO / "target", DEMO / "drafter"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True, help="kept, and comes first")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-new", type=int, default=160)
    options = parser.parse_args()
    plain = read_answers(options.answers)
    made_from = read_origin(options.answers) | {"structured": RECORD}
    out = AnswerFile(options.out, made_from)
    for answer in plain:
        if answer.row not in out.done:
            out.append([answer])
    rows = [json.loads(line) for line in options.prompts.read_text().splitlines()]
    asked = [row["messages"] for row in rows if row["kind"] == "json"]
    first = 1 + max(answer.row for answer in plain)
    left = [(first + at, chat) for at, chat in enumerate(asked) if first + at not in out.done]
    for answer in track(structured(left, options.max_new), "structured", len(left)):
        out.append([answer])
    out.close()


def structured(chats: list[tuple[int, Any]], max_new: int) -> Iterator[Answer]:
    """Greedy answers under the schema, by row; those that reach no end are left out."""
    target = load_target(TARGET)
    drafter = load_drafter(DRAFTER, target)
    tokenizer = ChatTokenizer.load(TARGET)
    stops = stop_tokens(TARGET)
    tokenizer_text = (TARGET / "tokenizer.json").read_text(encoding="utf-8")
    compiler = GrammarCompiler(tokenizer_text, target.vocab_size, sorted(stops))
    grammar: Grammar = compiler.compile(from_json_schema(RECORD))
    prompts = {str(row): tokenizer.encode_chat(chat, {}) for row, chat in chats}
    config = EngineConfig(
        max_batch=8, max_context=target.max_context, prefill_chunk=2048, block_size=8
    )
    scheduler = Scheduler(config, lambda: 0.0)
    runner = DeviceRunner(target, drafter, 8)
    request = EngineRequest("", (0,), max_new, stop_tokens=stops, grammar=grammar)
    for name, prompt in prompts.items():
        scheduler.add(replace(request, id=name, prompt=prompt))
    texts: dict[str, tuple[int, ...]] = {}
    while not scheduler.idle:
        plan = scheduler.plan()
        assert plan is not None
        for chunk in scheduler.commit(plan, runner.run(plan)):
            name = chunk.request_id
            texts[name] = texts.get(name, ()) + chunk.tokens
            if chunk.finish is FinishReason.STOP and chunk.stop_token is not None:
                prompt, whole = prompts[name], (*prompts[name], *texts[name], chunk.stop_token)
                tokens = np.array(whole, dtype=np.int32)
                yield Answer(int(name), "schema", tokens, ((len(prompt), len(whole)),))


if __name__ == "__main__":
    main()
