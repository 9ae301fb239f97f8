"""Sends the prompts of a file to a server, some at a time, and prints tokens per round.

python tools/demo/send.py --prompts shifted.jsonl --url http://127.0.0.1:8000 --key demo
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="none")
    parser.add_argument("--at-once", type=int, default=4)
    args = parser.parse_args()
    headers = {"Authorization": f"Bearer {args.key}"}
    with httpx.Client(base_url=args.url, headers=headers, timeout=300) as client:
        model = client.get("/v1/models").json()["data"][0]["id"]

        def send(line: str) -> tuple[int, int]:
            body = {
                "model": model,
                "messages": json.loads(line)["messages"],
                "temperature": 0,
                "max_tokens": 160,
                "return_meta_info": True,
            }
            answer = client.post("/v1/chat/completions", json=body).raise_for_status()
            meta = answer.json()["meta_info"]
            return meta["completion_tokens"] - 1, meta["spec_verify_ct"]

        with ThreadPoolExecutor(args.at_once) as pool:
            done = list(pool.map(send, args.prompts.read_text(encoding="utf-8").splitlines()))
    tokens, rounds = map(sum, zip(*done, strict=True))
    means = [committed / passes for committed, passes in done if passes]
    mean = sum(means) / len(means)
    print(f"{len(done)} answers, {mean:.2f} tokens per round (pooled {tokens / rounds:.2f})")


if __name__ == "__main__":
    main()
