"""A pair without training that accepts some drafts: the target often repeats itself, and the
drafter proposes its anchor over and over."""

import json
from pathlib import Path

import mlx.core as mx

from tests.e2e.server import PairPaths
from tests.fakes import save_tokenizer
from tests.tiny import DRAFTER, TARGET, write_checkpoint, write_drafter, write_target

VOCAB, BLOCK, MASK = 320, 8, 319
SOFTER = 2 / 3
"""Smaller weights let the embedding, and with it the last token, outweigh the layers."""


def write_repeating_target(directory: Path) -> Path:
    write_target(directory, vocab_size=VOCAB)
    weights = _read(directory)
    softer = {name: SOFTER * w if w.ndim > 1 else w for name, w in weights.items()}
    return write_checkpoint(directory, TARGET | {"vocab_size": VOCAB}, softer)


def write_copying_drafter(directory: Path, target: Path) -> Path:
    """Attention spreads evenly over context (silenced) and block, and carries all but the mask."""
    changes = {
        "vocab_size": VOCAB,
        "block_size": BLOCK,
        "num_key_value_heads": DRAFTER["num_attention_heads"],
        "dflash_config": DRAFTER["dflash_config"] | {"mask_token_id": MASK},
    }
    weights = _read(write_drafter(directory, **changes))
    mask = _read(target)["model.embed_tokens.weight"][MASK]
    identity = mx.eye(mask.size)
    for name, weight in weights.items():
        if name.endswith(("q_proj.weight", "down_proj.weight")) or name == "fc.weight":
            weights[name] = mx.zeros_like(weight)
        elif name.endswith("v_proj.weight"):
            weights[name] = identity - mx.outer(mask, mask) / (mask * mask).sum()
        elif name.endswith("o_proj.weight"):
            weights[name] = 1e4 * identity
    return write_checkpoint(directory, DRAFTER | changes, weights)


def write_copying_pair(directory: Path) -> PairPaths:
    """Both, with a tokenizer and two stop tokens."""
    target = write_repeating_target(directory / "target")
    save_tokenizer(target)
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": [305, 307]}))
    return PairPaths(target, write_copying_drafter(directory / "drafter", target))


def _read(directory: Path) -> dict[str, mx.array]:
    weights: dict[str, mx.array] = dict(mx.load(str(directory / "model.safetensors")))
    mx.eval(weights)
    return weights
