"""Settings of `dflash-train run` by the names of its options, checked and put together.

Reads nothing but a tokenizer's own mask token. A sweep's rows are such settings too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

from dflash_serve.adapters.checkpoint import read_config
from dflash_serve.compose.directories import target_directory
from dflash_serve.training.data import DataError
from dflash_serve.training.drafter.initialise import DrafterShape
from dflash_serve.training.drafter.layout import DTYPES
from dflash_serve.training.run.schedule import Horizon, Schedule
from dflash_serve.training.run.trainer import TrainOptions
from dflash_serve.training.step.objective import DFLASH, DPACE, Objective

ARCHITECTURES = ("v1", "dflash2")
MODES = ("dflash", "vp_drafter")
FEATURES: tuple[Literal["memory", "disk", "online"], ...] = ("memory", "disk", "online")


@dataclass(frozen=True, slots=True)
class Kept:
    """What a run leaves on disk, and how it is watched."""

    out: Path
    resume: bool
    checkpoints: int
    dtype: str
    wandb: str | None


@dataclass(frozen=True, slots=True)
class Sources:
    """What a run learns from. Features: where they are kept, in how many bytes."""

    data: Path
    heldout: Path | None
    min_loss_tokens: int
    max_length: int | None
    features: Literal["memory", "disk", "online"]
    feature_bytes: int
    feature_dir: Path | None
    feature_dtype: Literal["float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One run. ``start`` is a drafter to begin with; its shape replaces ``shape``."""

    target: str
    shape: DrafterShape
    options: TrainOptions
    sources: Sources
    kept: Kept
    start: str | None
    copy_target: bool
    measure_block: int | None


def job_of(settings: Mapping[str, Any]) -> TrainJob:
    """Settings by option name, all of them, to a run.

    Raises:
        DataError: a name that is no choice, or no room for a mask token.
        ValueError: a number out of range.
    """
    if not 0 <= settings["feature_gb"] < math.inf:
        raise DataError(f"feature-gb is {settings['feature_gb']}, but must be 0 or more")
    _one_of("architecture", settings["architecture"], ARCHITECTURES)
    _one_of("training mode", settings["training_mode"], MODES)
    _one_of("features", settings["features"], FEATURES)
    _one_of("feature dtype", settings["feature_dtype"], ("float16", "bfloat16"))
    _one_of("dtype", settings["dtype"], tuple(DTYPES))
    return TrainJob(
        settings["target"],
        _shape(settings),
        _options(settings),
        Sources(
            Path(settings["data"]),
            Path(settings["heldout"]) if settings["heldout"] else None,
            settings["min_loss_tokens"],
            settings["max_length"],
            settings["features"],
            int(settings["feature_gb"] * 1e9),
            Path(settings["feature_dir"]) if settings["feature_dir"] else None,
            settings["feature_dtype"],
        ),
        Kept(
            Path(settings["out"]),
            settings["resume"],
            settings["keep"],
            settings["dtype"],
            settings["wandb"],
        ),
        settings["start"],
        settings["copy_target"],
        settings["measure_block"],
    )


def mask_token_id(target: str, given: int | None) -> int:
    """The id asked for, the tokenizer's own mask token, or the first id that no token uses.

    Raises:
        DataError: the vocabulary has no room for one.
    """
    if given is not None:
        return given
    directory = target_directory(target)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for token in ("<|mask|>", "<|MASK|>"):
        if token in tokenizer.get_vocab():
            return int(tokenizer.convert_tokens_to_ids(token))
    if len(tokenizer) < int(read_config(directory)["vocab_size"]):
        return len(tokenizer)
    raise DataError(f"{target} has no unused token id: choose one with --mask-token")


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise DataError(f"{what} {given!r} is none of {', '.join(known)}")


def _prefix_base(settings: Mapping[str, Any]) -> float | None:
    vp_drafter = settings["training_mode"] == "vp_drafter"
    return float(settings["prefix_weight_base"]) if vp_drafter else None


def _shape(settings: Mapping[str, Any]) -> DrafterShape:
    taps = settings["target_layers"]
    try:
        layer_ids = tuple(int(part) for part in taps.split(",")) if taps else None
    except ValueError as error:
        raise DataError(f"--target-layers {taps!r} is no list like 1,3,5") from error
    return DrafterShape(
        mask_token_id(settings["target"], settings["mask_token"]),
        settings["layers"],
        settings["block_size"],
        layer_ids,
        settings["intermediate"],
        settings["window"],
        causal=settings["causal"],
        selector_rank=settings["selector_rank"] if settings["architecture"] == "dflash2" else 0,
        selector_top_k=settings["selector_top_k"],
        conv_kernel_size=settings["conv_kernel"],
        conv_group_size=settings["conv_group"],
        prefix_weight_base=_prefix_base(settings),
    )


def _options(settings: Mapping[str, Any]) -> TrainOptions:
    return TrainOptions(
        Horizon(settings["steps"], settings["minutes"], settings["epochs"]),
        Schedule(
            settings["lr"],
            settings["schedule"],
            settings["warmup"],
            settings["decay"],
            settings["min_lr"],
        ),
        Objective(
            soft_label=settings["soft_label"],
            loss_type=DFLASH if settings["d_pace"] is None else DPACE,
            d_pace=0.5 if settings["d_pace"] is None else settings["d_pace"],
            selector_alpha=settings["selector_alpha"],
        ),
        batch=settings["batch"],
        accumulate=settings["accumulate"],
        anchors=settings["anchors"],
        gamma=settings["gamma"],
        prefix_weight_base=_prefix_base(settings),
        clip=settings["clip"],
        measure_every=settings["measure_every"],
        checkpoint_every=settings["checkpoint_every"],
        patience=settings["patience"],
        seed=settings["seed"],
        muon=settings["muon"],
        compute_dtype=settings["compute_dtype"],
        group_rows=settings["group_rows"],
    )
