"""The race's target: a Qwen3 of six million parameters, pre-trained with PyTorch for some minutes.

race_target.py WORK reads pretrain.jsonl and the tokenizer in target/, and writes the model there.
It learns from functions as chats: the rest of a function is the answer to its beginning.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))

from muon import Muon  # noqa: E402  # of the demo
from qwen3_torch import Qwen3, Shape  # noqa: E402

SHAPE = Shape(vocab=4096, layers=6, intermediate=768)
LENGTH, ROWS = 256, 8


def stream(tokenizer: Tokenizer, path: Path) -> np.ndarray:
    """All functions as chats, one behind the other."""
    ids: list[int] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids += tokenizer.encode(
            f"<|im_start|>user\n{row['prompt'].strip()}<|im_end|>\n"
            f"<|im_start|>assistant\n{row['rest']}<|im_end|>\n"
        ).ids
    return np.array(ids, dtype=np.int64)


def batches(tokens: np.ndarray, seed: int) -> Iterator[Tensor]:
    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(0, len(tokens) - LENGTH - 1, ROWS)
        yield torch.from_numpy(np.stack([tokens[at : at + LENGTH + 1] for at in starts]))


def height(progress: float) -> float:
    """Warm-up, a plateau, and a straight line down over the second half."""
    return min(1.0, progress / 0.02, max(0.05, 2 * (1 - progress)))


def train(model: Qwen3, tokens: np.ndarray, minutes: float) -> tuple[int, float]:
    """Steps, and the mean loss of the last tenth of them."""
    optimiser = Muon(model.named_parameters(), 0.02, 0.003)
    losses: list[float] = []
    started = time.monotonic()
    for batch in batches(tokens, seed=1):
        progress = (time.monotonic() - started) / (60 * minutes)
        if progress >= 1:
            break
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step(height(progress))
        losses.append(loss.item())
    return len(losses), float(np.mean(losses[-max(1, len(losses) // 10) :]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    out = given.work / "target"
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokens = stream(tokenizer, given.work / "pretrain.jsonl")
    model = Qwen3(SHAPE)
    steps, loss = train(model, tokens, given.minutes)
    end, pad = (tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>"))
    state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    generation = {"do_sample": False, "eos_token_id": [end, pad], "pad_token_id": pad}
    for name, value in (
        ("config.json", SHAPE.config(end, pad)),
        ("generation_config.json", generation),
    ):
        (out / name).write_text(json.dumps(value, indent=2) + "\n")
    parameters = sum(value.numel() for value in model.parameters())
    told = {"parameters": parameters, "tokens": len(tokens), "steps": steps, "loss": loss}
    (given.work / "target.json").write_text(json.dumps(told))
    print(told)


if __name__ == "__main__":
    main()
