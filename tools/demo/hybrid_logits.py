"""What a stored hybrid target says in PyTorch, where it was trained, for `evaluate.py --logits`.

python tools/demo/hybrid_logits.py --target target --out logits.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from qwen3_5_torch import HybridShape, Qwen35
from safetensors.torch import load_file, save_file
from torch import Tensor

TOKENS = 150


def as_read(name: str, value: Tensor) -> Tensor:
    """mlx-lm adds the one to the weight of a norm in the stored dtype, which rounds it."""
    shifted = "norm" in name and "linear_attn" not in name
    return (value + 1).float() - 1 if shifted else value.float()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Qwen35(HybridShape())
    stored = load_file(args.target / "model.safetensors")
    model.load_state_dict({name: as_read(name, value) for name, value in stored.items()})
    tokens = torch.randint(model.shape.vocab, (1, TOKENS))
    save_file({"tokens": tokens, "logits": model(tokens)}, args.out)


if __name__ == "__main__":
    main()
