"""The settings of a run as what the other rooms take: a shape, options, a place for features."""

from collections.abc import Sequence
from pathlib import Path

from dflash_serve.adapters.base import TargetAdapter
from dflash_serve.adapters.checkpoint import fingerprint, read_config, resolve
from dflash_serve.adapters.target_config import text_config
from dflash_serve.measure.errors import DataError
from dflash_serve.training.data.example import Example
from dflash_serve.training.data.tokenizer import read_tokenizer
from dflash_serve.training.drafter.initialise import (
    Beginning,
    DrafterShape,
    begin_from,
    begin_new,
)
from dflash_serve.training.drafter.layout import DTYPES
from dflash_serve.training.features.files import FeatureFiles, examples_digest
from dflash_serve.training.features.store import FeatureStore
from dflash_serve.training.run.distributed import Processes
from dflash_serve.training.run.schedule import Horizon
from dflash_serve.training.run.settings import RunSettings
from dflash_serve.training.run.trainer import TrainOptions
from dflash_serve.training.step.batches import steps_per_epoch
from dflash_serve.training.step.blocks import default_gamma

_MEASUREMENTS = 20
_TIMED = 250  # steps between measurements where the length is one of time


def begin(settings: RunSettings, directory: Path, target: TargetAdapter) -> Beginning:
    """A drafter with float32 weights to begin with.

    Raises:
        DataError, AdapterError: options that do not fit the target or the drafter of --start.
    """
    if settings.start is None:
        shape = drafter_shape(settings, mask_token_id(directory, settings.mask_token))
        return begin_new(directory, target, shape, settings.seed, copy_target=settings.copy_target)
    begun = begin_from(
        resolve(settings.start),
        target,
        mode=settings.training_mode if settings.given("training_mode") else None,
        base=settings.prefix_weight_base if settings.given("prefix_weight_base") else None,
    )
    if settings.given("selector_alpha") and not begun.drafter.config.selector_rank:
        raise DataError(
            f"--selector-alpha {settings.selector_alpha} has no effect: {settings.start} is no "
            "DFlash 2 drafter"
        )
    return begun


def mask_token_id(directory: Path, given: int | None) -> int:
    """The id asked for, the tokenizer's own mask token, or the first id that no token uses.

    Raises:
        DataError: the vocabulary has no room for one, or the tokenizer cannot be read.
    """
    if given is not None:
        return given
    tokenizer = read_tokenizer(directory).backend
    for token in ("<|mask|>", "<|MASK|>"):
        if (found := tokenizer.token_to_id(token)) is not None:
            return found
    used = frozenset(tokenizer.get_vocab().values())
    for free in range(len(used), int(text_config(read_config(directory))["vocab_size"])):
        if free not in used:
            return free
    raise DataError(f"{directory} has no unused token id: choose one with --mask-token")


def drafter_shape(settings: RunSettings, mask_token: int) -> DrafterShape:
    """What is free in the new drafter that the settings ask for."""
    vp_drafter = settings.training_mode == "vp_drafter"
    return DrafterShape(
        mask_token,
        settings.layers,
        settings.block_size,
        settings.target_layers,
        settings.intermediate,
        settings.window,
        causal=settings.causal,
        selector_rank=settings.selector_rank if settings.architecture == "dflash2" else 0,
        selector_top_k=settings.selector_top_k,
        conv_kernel_size=settings.conv_kernel,
        conv_group_size=settings.conv_group,
        prefix_weight_base=settings.prefix_weight_base if vp_drafter else None,
    )


def train_options(
    settings: RunSettings, block_size: int, prefix_weight_base: float, examples: int
) -> TrainOptions:
    """The options of a run over ``examples``; ``prefix_weight_base`` is 0 but for a VP-drafter.

    Raises:
        DataError: the block is too long for a gamma of its own, or a batch is never full.
    """
    if settings.batch > examples:
        raise DataError(
            f"--batch is {settings.batch}, but there are {examples} answers to train on"
        )
    per_epoch = steps_per_epoch(examples, settings.batch)
    horizon = settings.horizon(per_epoch)
    return TrainOptions(
        horizon,
        settings.course,
        settings.objective,
        batch=settings.batch,
        accumulate=settings.accumulate,
        anchors=settings.anchors,
        gamma=settings.gamma or default_gamma(block_size),
        prefix_weight_base=prefix_weight_base or None,
        clip=settings.clip,
        weight_decay=settings.weight_decay,
        measure_every=settings.measure_every or _measure_every(horizon.in_steps(per_epoch)),
        checkpoint_every=settings.checkpoint_every,
        patience=settings.patience,
        seed=settings.seed,
        muon=settings.muon,
        compute_dtype=settings.compute_dtype,
        group_rows=settings.group_rows,
    )


def open_features(
    settings: RunSettings,
    directory: Path,
    target: TargetAdapter,
    layers: tuple[int, ...],
    examples: Sequence[Example],
    processes: Processes,
) -> FeatureStore:
    """The features of ``examples`` of the target in ``directory``, where the settings keep them."""
    files, most = None, int(settings.feature_gb * 1e9)
    final, dtype = settings.soft_label > 0, settings.feature_dtype
    if settings.features == "disk":
        made_from = {
            "target": fingerprint(directory),
            "tokens": examples_digest(examples),
            "layers": layers,
            "dtype": dtype,
            "final": final,
        }
        folder = settings.feature_dir or settings.out / "features"
        if processes.size > 1:
            folder = folder / f"rank-{processes.rank}"
        files = FeatureFiles.open(folder, made_from, most)
    room = most if settings.features == "memory" else 0
    return FeatureStore(
        target, layers, examples, room, final=final, dtype=DTYPES[dtype], files=files
    )


def _measure_every(horizon: Horizon) -> int:
    if horizon.steps is None:
        return _TIMED
    return max(10, min(500, horizon.steps // _MEASUREMENTS))
