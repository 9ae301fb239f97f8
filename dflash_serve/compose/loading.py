"""Directories -> weights on the device, evaluated, in a runner that the engine can take over."""

import gc
import logging
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.cpu_weights import CpuWeights
from dflash_serve.adapters.drafter_bits import quantised
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.compose.cards import block_size, first_config
from dflash_serve.compose.cost_file import cost_file
from dflash_serve.compose.drafter_test import DrafterBits, check_quantised
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.compose.trees import load_second, tree_kinds
from dflash_serve.engine.admission import context_under
from dflash_serve.engine.commands import LaneRunner, Loaded, NewDrafter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.warm_up import CostStore
from dflash_serve.kernels import cpu_blas, verify_qmm
from dflash_serve.kernels.dispatch import hand_written

_log = logging.getLogger("dflash_serve")


def load_pair(
    target_path: Path, drafter_path: Path | None, cpu_weights: str = "auto"
) -> tuple[TargetAdapter, DraftAdapter | None]:
    """Both halves, held against each other; no drafter without a path.

    Raises:
        AdapterError: a checkpoint is damaged, they do not fit, or it is a VP-drafter.
        OptionsError: the environment asks for kernels that do not exist.
    """
    _check_kernels()
    wanted = CpuWeights(cpu_weights)
    if drafter_path is not None:
        first_config(drafter_path)
    target = load_target(target_path, wanted)
    return target, None if drafter_path is None else load_drafter(drafter_path, target, wanted)


def load(options: EngineOptions, target_path: Path, drafter_path: Path | None) -> Loaded:
    """Weights onto the device, and what the engine may take of it.

    Raises:
        AdapterError: a checkpoint is damaged, or they do not fit.
        OptionsError: the memory limit leaves no room for a row.
    """
    _check_kernels()
    cpu_weights = CpuWeights(options.cpu_weights)
    target = load_target(target_path, cpu_weights)
    block = block_size(options, drafter_path)
    bits = DrafterBits(options.drafter_bits, target_path) if options.drafter_bits else None
    kinds = tree_kinds(options, target)
    drafter = _drafter(drafter_path, target, block, bits or cpu_weights)
    runner = DeviceRunner(target, drafter, block, second=load_second(options, target, block))
    config = EngineConfig(
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        prefill_chunk=options.prefill_chunk,
        block_size=block,
        adaptive=options.adaptive,
        memory_limit=options.memory_limit,
        max_stall=options.max_stall_ms / 1e3,
        tree_nodes=kinds,
    )
    context = _context(options, target.max_context, config.round_tokens, runner)
    _report_matmul()
    costs = cost_file(options, target_path, drafter_path, block)
    return Loaded(runner, replace(config, max_context=context), costs)


def new_drafter(
    runner: LaneRunner,
    path: Path | None,
    block_size: int,
    wanted: DrafterBits | CpuWeights = CpuWeights.AUTO,
    costs: CostStore | None = None,
) -> NewDrafter:
    """The evaluated weights of the drafter at ``path``, for the target that ``runner`` runs.

    ``costs``: where what its rounds cost is kept.

    Raises:
        AdapterError: the checkpoint is damaged, does not fit, or drafts badly in ``wanted`` bits.
    """
    assert isinstance(runner, DeviceRunner)
    return NewDrafter(_drafter(path, runner.target, block_size, wanted), block_size, costs)


def _drafter(
    path: Path | None, target: TargetAdapter, block: int, wanted: DrafterBits | CpuWeights
) -> DraftAdapter | None:
    """As stored or expanded, or quantised as ``wanted`` and tested in blocks of ``block``."""
    if path is None:
        return None
    if isinstance(wanted, CpuWeights):
        return load_drafter(path, target, wanted)
    drafter = load_drafter(path, target, expand=False)
    after = quantised(drafter, wanted.bits)
    check_quantised(target, drafter, after, block, wanted)
    return after


def release() -> None:
    """Give back the memory of runners that nobody holds any more; on any thread."""
    gc.collect()
    mx.clear_cache()


def _context(options: EngineOptions, own: int, spare: int, runner: DeviceRunner) -> int:
    """The context that the options, the model and one row under the memory limit allow."""
    wanted = options.max_context or own
    try:
        return context_under(options.memory_limit, runner.bytes_for, wanted, spare)
    except ValueError as error:
        reason = str(error).removeprefix("the memory limit")
        raise OptionsError(f"--memory-limit{reason}") from error


def _check_kernels() -> None:
    try:
        hand_written()
        verify_qmm.enabled()
    except ValueError as error:
        raise OptionsError(str(error)) from error


def _report_matmul() -> None:
    status = cpu_blas.status()
    if status.state is cpu_blas.CpuBlasState.LOADED:
        _log.info("CPU matmul: %s, %d thread(s), row-invariant", status.isa, status.threads)
