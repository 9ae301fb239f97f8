"""A tiny random pair on disk, with a real chat tokenizer, and a prompt file."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import save_tokenizer
from tests.tiny import write_drafter, write_target

VOCAB = 328


@dataclass(frozen=True, slots=True)
class Stored:
    """Paths of a pair and of prompts for it."""

    target: Path
    drafter: Path
    prompts: Path


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    root = tmp_path_factory.mktemp("pair")
    target = write_target(root / "target", vocab_size=VOCAB)
    save_tokenizer(target)
    drafter = write_drafter(
        root / "drafter",
        vocab_size=VOCAB,
        block_size=4,
        dflash_config={"mask_token_id": VOCAB - 1, "target_layer_ids": [0, 1, 2]},
    )
    prompts = root / "prompts.jsonl"
    lines = [
        {"kind": kind, "messages": [{"role": "user", "content": f"{kind} {number}"}]}
        for kind in ("sum", "story")
        for number in range(3)
    ]
    prompts.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return Stored(target, drafter, prompts)
