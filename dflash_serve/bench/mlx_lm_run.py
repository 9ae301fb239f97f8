"""mlx-lm's own decoding of given prompts, as a script of its own: the outside baseline.

Run by path in a process that never imports this package, so that MLX is as its wheel brings it.
Reads one JSON object from standard input and writes one to standard output.
"""

import json
import sys
import time
from importlib import metadata
from typing import Any

import mlx.core as mx
from mlx_lm import load, stream_generate


def main() -> None:
    job = json.load(sys.stdin)
    model, tokenizer = load(job["target"])
    if job["float32"]:
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    answer(model, tokenizer, job["prompts"][0], 8)
    started = time.perf_counter()
    answers = [answer(model, tokenizer, prompt, job["max_tokens"]) for prompt in job["prompts"]]
    wall = time.perf_counter() - started
    print(json.dumps({"answers": answers, "wall": wall, "mlx_lm": metadata.version("mlx-lm")}))


def answer(model: Any, tokenizer: Any, prompt: list[int], max_tokens: int) -> dict[str, Any]:
    """Greedy tokens without the stop token, and seconds from the first token to the last."""
    tokens: list[int] = []
    first = last = time.perf_counter()
    generated = 0
    for response in stream_generate(model, tokenizer, prompt, max_tokens=max_tokens):
        last = time.perf_counter()
        if not generated:
            first = last
        # the terminal response repeats no token: it carries the stop token or the last one
        generated += 1
        if response.finish_reason != "stop":
            tokens.append(int(response.token))
    return {"tokens": tokens, "generated": generated, "decode": last - first}


if __name__ == "__main__":
    main()
