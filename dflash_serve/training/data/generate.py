"""A target's answers to many chats, through the engine's own scheduler and runner.

Runs on the calling thread, without queues or asyncio. Knows no text.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, SamplingParams, Usage
from dflash_serve.engine.warm_up import measured_costs
from dflash_serve.measure.driver import Driver

_PREFILL = 4096  # prompt tokens at a time: nobody waits for a single answer here


class Talk(Protocol):
    """A chat that asks for one answer after the other."""

    @property
    def row(self) -> int:
        """Its number, unique among all talks; with the seed it fixes every random draw."""
        ...

    def next_prompt(self) -> tuple[int, ...] | None:
        """What to answer next, or None when the chat is done."""
        ...

    def take(self, tokens: tuple[int, ...], *, stopped: bool) -> None:
        """The answer, its stop token included if it came to one."""
        ...


T = TypeVar("T", bound=Talk)


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """``max_new`` bounds one answer, ``max_length`` prompt and answer together.

    ``sampling.seed`` is mixed with row and turn, so that no answer depends on its neighbours.
    """

    stop_tokens: frozenset[int]
    max_new: int
    max_length: int
    batch: int
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class Finished(Generic[T]):
    """A talk that is done, and what each of its answers cost."""

    talk: T
    usages: tuple[Usage, ...]


def generate(
    target: TargetAdapter,
    drafter: DraftAdapter | None,
    talks: Iterable[T],
    settings: GenerateSettings,
) -> Iterator[Finished[T]]:
    """Talks as they finish, in no order. With a drafter the same answers come sooner.

    At most ``settings.batch`` talks are open at once: memory does not grow with their number.
    """
    block = drafter.block_size if drafter else 1
    config = EngineConfig(
        max_batch=settings.batch,
        max_context=min(settings.max_length, target.max_context),
        prefill_chunk=_PREFILL,
        block_size=block,
        adaptive=True,
    )
    with closing(DeviceRunner(target, drafter, block)) as runner:
        costs = measured_costs(runner, config, runner.bytes_for)
        yield from _Answering[T](Driver(runner, config, costs=costs), settings).run(talks)


class _Answering(Generic[T]):
    """Owns the open talks, by the id of the request that each of them waits for."""

    def __init__(self, driver: Driver, settings: GenerateSettings) -> None:
        self._driver, self._settings = driver, settings
        self._open: dict[str, _Open[T]] = {}

    def run(self, talks: Iterable[T]) -> Iterator[Finished[T]]:
        waiting = iter(talks)
        while True:
            yield from self._begin(waiting)
            if self._driver.idle:
                return
            for key in self._driver.step():
                if finished := self._take(key):
                    yield finished

    def _begin(self, waiting: Iterator[T]) -> Iterator[Finished[T]]:
        while len(self._open) < self._settings.batch:
            talk = next(waiting, None)
            if talk is None:
                return
            if not self._ask(_Open(talk)):
                yield Finished(talk, ())

    def _ask(self, open_: "_Open[T]") -> bool:
        """Queue the talk's next prompt, if there is one."""
        prompt = open_.talk.next_prompt()
        if prompt is None:
            return False
        settings, key = self._settings, f"{open_.talk.row}.{len(open_.usages)}"
        sampling = replace(settings.sampling, seed=_mixed_seed(settings.sampling.seed, key))
        self._open[key] = open_
        self._driver.add(
            EngineRequest(key, prompt, settings.max_new, sampling, settings.stop_tokens)
        )
        return True

    def _take(self, key: str) -> Finished[T] | None:
        open_, answer = self._open.pop(key), self._driver.answers.pop(key)
        stop = () if answer.stop_token is None else (answer.stop_token,)
        open_.talk.take((*answer.tokens, *stop), stopped=bool(stop))
        open_.usages.append(answer.usage)
        return None if self._ask(open_) else Finished(open_.talk, tuple(open_.usages))


@dataclass(slots=True)
class _Open(Generic[T]):
    """A talk in the engine, and what its earlier answers cost."""

    talk: T
    usages: list[Usage] = field(default_factory=list)


def _mixed_seed(seed: int, key: str) -> int:
    """A signed 64-bit seed for one answer."""
    digest = hashlib.sha256(f"{seed}.{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
