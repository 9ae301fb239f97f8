"""What the PyTorch trainer of the race begins with, and what `dflash-train` reads of its end.

race_start.py begin WORK writes the first weights, the target's features, the order of the batches
and the recipe into WORK; race_start.py export WORK writes the trained weights as a drafter.
The options of `dflash-train run` stand in WORK/run.json.
"""

import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import dflash_serve  # noqa: F401  # puts its matmul under MLX, which must not be loaded yet

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import resolve
from dflash_serve.adapters.dflash import DFlashDrafter
from dflash_serve.adapters.loading import load_target
from dflash_serve.training.data.answers import read_answers
from dflash_serve.training.drafter.initialise import Beginning
from dflash_serve.training.drafter.layout import full_config, write_drafter
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.job import begin as begin_drafter
from dflash_serve.training.run.job import train_options
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.trainer import TrainOptions
from dflash_serve.training.step.batches import batches

STEPS_PER_SECOND = 20  # no step of a race is so short


def settings_of(work: Path) -> RunSettings:
    return RunSettings(**json.loads((work / "run.json").read_text()))


def begun(settings: RunSettings, target: TargetAdapter) -> Beginning:
    """The drafter that `dflash-train run` begins with, with its config."""
    found = begin_drafter(settings, resolve(settings.target), target)
    config = found.drafter.config
    if any(kind != (None, False) for kind in config.layer_kinds) or config.selector_rank:
        raise SystemExit("the PyTorch trainer knows full, not causal layers alone")
    return found


def begin(work: Path) -> None:
    settings = settings_of(work)
    target = load_target(resolve(settings.target))
    drafter = begun(settings, target).drafter
    examples = [answer.example() for answer in read_answers(settings.data)]
    options = train_options(settings, drafter.block_size, 0.0, len(examples))
    lengths = [example.length for example in examples]
    store = FeatureStore(target, drafter.target_layer_ids, examples, 0)
    taps = [store.batch([i], length).taps[0] for i, length in enumerate(lengths)]
    arrays = {f"drafter.{name}": value for name, value in tree_flatten(drafter.model.parameters())}
    arrays["embedding"] = drafter.embed_block(mx.arange(drafter.config.vocab_size)[None])[0]
    arrays["taps"] = mx.concatenate(taps).astype(mx.float16)
    arrays["tokens"] = mx.array(np.concatenate([e.tokens for e in examples]).astype(np.int32))
    arrays["mask"] = mx.array(np.concatenate([e.loss_mask for e in examples]).astype(np.uint8))
    arrays["ends"] = mx.array(np.cumsum(lengths))
    arrays["order"] = mx.array(order(lengths, options))
    mx.save_safetensors(str(work / "race.safetensors"), arrays)
    (work / "settings.json").write_text(json.dumps(recipe(drafter, options)))


def order(lengths: Sequence[int], options: TrainOptions) -> np.ndarray:
    """The examples of each step [steps, batch], as this package draws them; -1 fills up."""
    assert options.horizon.minutes is not None
    steps = max(1, int(60 * options.horizon.minutes * STEPS_PER_SECOND))
    made = batches(lengths, options.batch, options.bucket, options.seed)
    found = np.full((steps, options.batch), -1, np.int32)
    for row, batch in zip(found, islice(made, steps), strict=True):
        row[: len(batch.indices)] = batch.indices
    return found


def recipe(drafter: DFlashDrafter, options: TrainOptions) -> dict[str, Any]:
    """What the PyTorch trainer must do as `dflash-train run` does it."""
    config = drafter.config
    return {
        "config": {
            "hidden": config.hidden_size,
            "inner": config.intermediate_size,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "head_dim": config.head_dim,
            "taps": len(config.target_layer_ids),
            "layers": config.num_layers,
            "mask_id": config.mask_token_id,
            "rope_theta": config.rope_theta,
            "eps": config.rms_norm_eps,
        },
        "block": config.block_size,
        "gamma": options.gamma,
        "rate": options.schedule.peak,
        "warmup": options.schedule.warmup,
        "anchors": options.anchors,
        "clip": options.clip,
        "seed": options.seed,
    }


def export(work: Path) -> None:
    """The weights that PyTorch ended with, as `dflash-train run` writes its own."""
    settings = settings_of(work)
    config = begun(settings, load_target(resolve(settings.target))).config
    weights = dict(mx.load(str(work / "torch.safetensors")))
    write_drafter(work / "torch", full_config(config), weights, settings.dtype)


if __name__ == "__main__":
    {"begin": begin, "export": export}[sys.argv[1]](Path(sys.argv[2]))
