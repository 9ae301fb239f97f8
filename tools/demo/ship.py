"""Puts a made pair together as it is shipped: the last stage of `make.py`.

The drafters' runtime block is the one with the highest end-to-end speedup on the choosing prompts.
Prints the figures on the held-out prompts, in which nothing was chosen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAME = "dflash-demo"
TARGET_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def results(folder: Path) -> dict[str, Any]:
    """What `dflash-train eval` wrote, for all responses together."""
    document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    total: dict[str, Any] = document["results"]["total"]
    return total


def runtime_block(work: Path, blocks: list[int]) -> int:
    """The fastest of the blocks, end to end."""
    if len(blocks) == 1:
        return blocks[0]
    document = json.loads((work / "blocks.json").read_text(encoding="utf-8"))
    arms = document["results"]["batches"][0]["arms"]
    speedups = {arm["block"]: arm["speedup_end_to_end"] for arm in arms if arm["block"] in blocks}
    for block, speedup in speedups.items():
        print(f"choosing prompts, block {block}: {speedup:.2f} times plain decoding, end to end")
    return max(speedups, key=lambda block: speedups[block])


def card(scores: dict[str, dict[str, Any]]) -> str:
    """README.md of the target."""
    rows = "\n".join(
        f"| {kind} | {100 * score['exact']:.1f} % | {score['right']} of {score['prompts']} |"
        for kind, score in scores.items()
    )
    return f"""# {NAME}

A very small target, trained from scratch on synthetic dialogues. It shows speculative decoding on
any machine; it is not a capable model.

Held-out prompts answered word for word, greedy, float32:

| kind | exact match | prompts |
| --- | --- | --- |
{rows}
"""


def ship_target(work: Path, shipped: Path) -> None:
    target = shipped / "target"
    target.mkdir(parents=True, exist_ok=True)
    for name in TARGET_FILES:
        shutil.copyfile(work / "target" / name, target / name)
    scores = json.loads((work / "accuracy.json").read_text(encoding="utf-8"))["scores"]
    (target / "README.md").write_text(card(scores), encoding="utf-8")
    for kind, score in scores.items():
        print(f"exact match, {kind}: {100 * score['exact']:.1f} %")


def ship_drafter(work: Path, shipped: Path, name: str, block: int, train: str) -> None:
    options = ("--dtype", "float16", "--runtime-block-size", str(block), "--target", NAME)
    command = (train, "export", str(work / name), "--out", str(shipped / name), *options)
    subprocess.run(command, check=True)
    if (work / f"eval-{name}").exists():
        found = results(work / f"eval-{name}")
        drafting = found["drafting"]
        print(
            f"{name}: {drafting['tokens_per_round']:.2f} tokens per round, mean over responses, "
            f"{drafting['tokens_per_round_pooled']:.2f} pooled; "
            f"{found['speedup_end_to_end']:.2f} times plain decoding end to end, "
            f"{found['speedup_decode']:.2f} in decoding; {found['differing']} of "
            f"{found['compared']} texts differ"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--train", required=True, help="the program dflash-train")
    parser.add_argument("--drafter", action="append", required=True)
    parser.add_argument("--block", type=int, action="append", required=True)
    args = parser.parse_args()
    shipped: Path = args.work / "shipped"
    block = runtime_block(args.work, args.block)
    ship_target(args.work, shipped)
    for name in args.drafter:
        ship_drafter(args.work, shipped, name, block, args.train)


if __name__ == "__main__":
    main()
