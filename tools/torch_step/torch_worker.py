"""The step in PyTorch, in a process of its own: torch_worker.py FOLDER eager|compiled THREADS."""

import json
import resource
import sys
from pathlib import Path

import torch
from drafter_torch import Config, Drafter, Step, batch_of
from safetensors.torch import load_file, save_file
from turns import seconds_of, serve


def main(folder: Path, kind: str, threads: int) -> None:
    torch.set_num_threads(threads)
    settings = json.loads((folder / "settings.json").read_text())
    arrays = load_file(folder / "inputs.safetensors")
    drafter = Drafter(Config(**settings["config"]), arrays.pop("embedding"))
    weights = {
        name.removeprefix("drafter."): arrays.pop(name)
        for name in list(arrays)
        if name.startswith("drafter.")
    }
    drafter.load_state_dict(weights)
    batch = batch_of(arrays)
    step = Step(drafter, rate=settings["rate"], clip=settings["clip"], compiled=kind == "compiled")

    def gradients(path: str) -> dict[str, float]:
        loss, right = step.gradients(batch)
        save_file({name: value.grad for name, value in drafter.named_parameters()}, path)
        counted = batch.weights.flatten(0, 1)[:, 1:] > 0
        return {"loss": loss.item(), "right": int((right & counted).sum())}

    serve(
        {
            "gradients": gradients,
            "seconds": seconds_of(lambda: step(batch)),
            "loss": lambda: step(batch),
            "peak": lambda: 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "version": lambda: torch.__version__,
        }
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
