"""Greedy answers of a target to many prompts, through the engine's own scheduler and runner.

Runs on the calling thread, without queues or asyncio. Knows no text.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, FinishReason, Usage

_PREFILL = 4096  # prompt tokens at a time: nobody waits for a single answer here


@dataclass(frozen=True, slots=True)
class Generated:
    """One finished answer; its stop token is part of ``tokens`` if it came to one."""

    index: int
    tokens: tuple[int, ...]
    usage: Usage


def generate(
    target: TargetAdapter,
    drafter: DraftAdapter | None,
    prompts: Mapping[int, Sequence[int]],
    *,
    stop_token: int,
    max_new: int,
    batch: int,
) -> Iterator[Generated]:
    """Answers as they finish, in no order. ``prompts`` maps an index to token ids.

    With a drafter the same answers come sooner.

    Raises:
        ValueError: a prompt leaves no room for an answer in the target's context.
    """
    block = drafter.block_size if drafter else 1
    room = max((len(tokens) for tokens in prompts.values()), default=1) + max_new
    config = EngineConfig(
        max_batch=batch,
        max_queue=len(prompts),
        max_context=min(room, target.max_context),
        prefill_chunk=_PREFILL,
        block_size=block,
    )
    scheduler = Scheduler(config, time.perf_counter)
    runner = DeviceRunner(target, drafter, block)
    for index, tokens in prompts.items():
        if len(tokens) >= config.max_context:
            raise ValueError(
                f"prompt {index} has {len(tokens)} tokens, but the target's context is "
                f"{config.max_context}"
            )
        scheduler.add(
            EngineRequest(str(index), tuple(tokens), max_new, stop_tokens=frozenset({stop_token}))
        )
    answers: dict[str, list[int]] = {str(index): [] for index in prompts}
    while not scheduler.idle:
        plan = scheduler.plan()
        if plan is None:
            continue
        for chunk in scheduler.commit(plan, runner.run(plan)):
            answers[chunk.request_id] += chunk.tokens
            if chunk.finish is not None:
                stopped = chunk.finish is FinishReason.STOP
                tokens = (*answers.pop(chunk.request_id), *([stop_token] if stopped else ()))
                yield Generated(int(chunk.request_id), tokens, chunk.usage or Usage())
