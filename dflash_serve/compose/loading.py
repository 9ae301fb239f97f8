"""Directories -> weights on the device, in a runner that is ready to serve.

All of it but `release` runs on the thread that will own MLX, or owns it.
"""

import contextlib
import gc
import logging
from pathlib import Path

import mlx.core as mx

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.loading import load_drafter, load_target, on_cpu
from dflash_serve.compose.cards import block_size
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.engine.block_policy import CPU_VERIFY_TOKENS
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.loop import Drafting, Loaded
from dflash_serve.engine.plan import DecodeRow, PrefillRow, Runner, StepPlan
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import SamplingParams
from dflash_serve.kernels import cpu_blas

_log = logging.getLogger("dflash_serve")


def load_pair(
    target_path: Path, drafter_path: Path | None
) -> tuple[TargetAdapter, DraftAdapter | None]:
    """Both halves, held against each other; no drafter without a path.

    Raises:
        AdapterError: a checkpoint is damaged, or they do not fit.
    """
    target = load_target(target_path)
    return target, None if drafter_path is None else load_drafter(drafter_path, target)


def load(options: EngineOptions, target_path: Path, drafter_path: Path | None) -> Loaded:
    """Weights onto the device, and a first round so that its graph is compiled.

    Raises:
        AdapterError: a checkpoint is damaged, or they do not fit.
        OptionsError: the memory limit leaves no room for a row.
    """
    target, drafter = load_pair(target_path, drafter_path)
    block = block_size(options, drafter_path)
    runner = DeviceRunner(target, drafter, block)
    config = EngineConfig(
        max_batch=options.max_batch,
        max_queue=options.max_queue,
        max_context=_context(options, target.max_context, runner.bytes_per_token),
        prefill_chunk=options.prefill_chunk,
        block_size=block,
        verify_tokens=CPU_VERIFY_TOKENS if on_cpu() else 0,
        memory_limit=options.memory_limit,
    )
    _report_matmul()
    warm_up(runner, config)
    return Loaded(runner, config, runner.bytes_per_token)


def swap_in(runner: Runner, path: Path | None, config: EngineConfig) -> Drafting:
    """Load the drafter at ``path``, try it on caches of its own, and let it take over.

    Runs between two rounds. Whatever is raised, the old drafter goes on.
    """
    assert isinstance(runner, DeviceRunner)
    drafter = None if path is None else load_drafter(path, runner.target)
    # closed: its traced rounds refer back to it, and must be freed on this thread
    with contextlib.closing(DeviceRunner(runner.target, drafter, config.block_size)) as scratch:
        needed = scratch.bytes_per_token * config.max_context
        if config.memory_limit and needed > config.memory_limit:
            raise OptionsError(
                f"--memory-limit is {config.memory_limit} bytes, but with this drafter a row of "
                f"{config.max_context} tokens takes {needed}"
            )
        warm_up(scratch, config)
    runner.draft_with(drafter, config.block_size)
    return Drafting(config.block_size, runner.bytes_per_token)


def warm_up(runner: DeviceRunner, config: EngineConfig) -> None:
    """Compile the rounds of one and of two rows."""
    greedy = SamplingParams()
    room = config.max_context > config.block_size
    for rows in range(1, min(config.max_batch, 2) + 1 if room else 1):
        slots = range(rows)
        prefill = tuple(PrefillRow(slot, 0, (0,), True, greedy) for slot in slots)
        decode = tuple(DecodeRow(slot, 1, 0, config.block_size, greedy) for slot in slots)
        runner.run(StepPlan(prefill=prefill))
        runner.run(StepPlan(decode=decode))


def release() -> None:
    """Give back the memory of runners that nobody holds any more; on any thread."""
    gc.collect()
    mx.clear_cache()


def _context(options: EngineOptions, own: int, bytes_per_token: int) -> int:
    """The context that the options, the model and one row under the memory limit allow."""
    wanted = options.max_context or own
    if not options.memory_limit:
        return wanted
    fits = options.memory_limit // bytes_per_token
    if fits < 2:
        raise OptionsError(
            f"--memory-limit is {options.memory_limit} bytes, but one token of cache "
            f"takes {bytes_per_token}"
        )
    return min(wanted, fits)


def _report_matmul() -> None:
    status = cpu_blas.status()
    if status.state is cpu_blas.CpuBlasState.LOADED:
        _log.info("CPU matmul: %s, %d thread(s), row-invariant", status.isa, status.threads)
