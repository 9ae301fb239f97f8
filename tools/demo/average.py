"""Average the weights of checkpoints that share their first steps: better than either alone.

python tools/demo/average.py --out target run-a/model.safetensors run-b/model.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def average(paths: list[Path]) -> dict[str, np.ndarray]:
    """The mean of equally named tensors, computed in float32, stored in the first one's dtype."""
    checkpoints = [load_file(path) for path in paths]
    return {
        name: np.mean([c[name].astype(np.float32) for c in checkpoints], axis=0).astype(value.dtype)
        for name, value in checkpoints[0].items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="target directory")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    args = parser.parse_args()
    weights = average(args.checkpoints)
    save_file(weights, args.out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
