"""A target's answers to many chats, through the engine's own scheduler and runner.

Runs on the calling thread, without queues or asyncio. Knows no text.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, SamplingParams
from dflash_serve.engine.warm_up import measured_costs
from dflash_serve.measure.driver import Answer as Generated
from dflash_serve.measure.driver import Driver
from dflash_serve.training.data.dialogue import Dialogue, Rules
from dflash_serve.training.data.settings import DataSettings

_PREFILL = 4096  # prompt tokens at a time: nobody waits for a single answer here


@dataclass(frozen=True, slots=True)
class Answered:
    """A chat, and what the engine did for each of its answers so far."""

    dialogue: Dialogue
    generated: list[Generated] = field(default_factory=list)


def generate(
    target: TargetAdapter,
    drafter: DraftAdapter | None,
    dialogues: Iterable[Dialogue],
    rules: Rules,
    settings: DataSettings,
) -> Iterator[Answered]:
    """Chats as they are done, in no order. With a drafter the same answers come sooner.

    At most ``settings.batch`` chats are open at once: memory does not grow with their number.
    """
    block = drafter.block_size if drafter else 1
    config = EngineConfig(
        max_batch=settings.batch,
        max_context=min(rules.max_length, target.max_context),
        prefill_chunk=_PREFILL,
        block_size=block,
        adaptive=True,
    )
    with closing(DeviceRunner(target, drafter, block)) as runner:
        costs = measured_costs(runner, config, runner.bytes_for)
        yield from _Answering(Driver(runner, config, costs=costs), rules, settings).run(dialogues)


class _Answering:
    """Owns the open chats, by the id of the request that each of them waits for."""

    def __init__(self, driver: Driver, rules: Rules, settings: DataSettings) -> None:
        self._driver, self._stop_tokens, self._settings = driver, rules.stop_tokens, settings
        self._open: dict[str, Answered] = {}

    def run(self, dialogues: Iterable[Dialogue]) -> Iterator[Answered]:
        waiting = iter(dialogues)
        while True:
            yield from self._begin(waiting)
            if self._driver.idle:
                return
            for key in self._driver.step():
                if finished := self._take(key):
                    yield finished

    def _begin(self, waiting: Iterator[Dialogue]) -> Iterator[Answered]:
        """Open chats up to the batch; those without a question are done at once."""
        while len(self._open) < self._settings.batch:
            dialogue = next(waiting, None)
            if dialogue is None:
                return
            chat = Answered(dialogue)
            if not self._ask(chat):
                yield chat

    def _ask(self, chat: Answered) -> bool:
        """Queue the chat's next prompt, if there is one.

        Its seed is mixed with row and turn, so that no answer depends on its neighbours.
        """
        prompt = chat.dialogue.next_prompt()
        if prompt is None:
            return False
        asked, key = self._settings, f"{chat.dialogue.row}.{len(chat.generated)}"
        seed = _mixed_seed(asked.seed, key)
        sampling = SamplingParams(asked.temperature, asked.top_p, asked.top_k, seed=seed)
        self._open[key] = chat
        self._driver.add(EngineRequest(key, prompt, asked.max_new, sampling, self._stop_tokens))
        return True

    def _take(self, key: str) -> Answered | None:
        """Give a finished answer to its chat; the chat, if that was the last."""
        chat, made = self._open.pop(key), self._driver.answers.pop(key)
        stop = () if made.stop_token is None else (made.stop_token,)
        chat.dialogue.take((*made.tokens, *stop), stopped=bool(stop))
        chat.generated.append(made)
        return None if self._ask(chat) else chat


def _mixed_seed(seed: int, key: str) -> int:
    """A signed 64-bit seed for one answer."""
    digest = hashlib.sha256(f"{seed}.{key}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)
