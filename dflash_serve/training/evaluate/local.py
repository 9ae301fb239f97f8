"""Answers turns with a loaded pair through the engine's own scheduler and runner, both ways.

Speculative and plain decoding take turns on the same prompts, in one process and on one thread;
which one goes first alternates.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from dflash_serve.adapters.checkpoint import fingerprint, resolve
from dflash_serve.adapters.exactness import exact_path
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.compose.cards import first_config, stop_tokens
from dflash_serve.compose.directories import target_directory
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, SamplingParams
from dflash_serve.measure.driver import Answer, Driver
from dflash_serve.measure.errors import DataError
from dflash_serve.text.errors import TemplateError
from dflash_serve.training.data.tokenizer import read_tokenizer, template_arguments
from dflash_serve.training.evaluate.prompts import Conversation
from dflash_serve.training.evaluate.records import Decoded, Failure, Response, ResponseFile, Take
from dflash_serve.training.evaluate.settings import EvaluateSettings

_PREFILL = 2048  # prompt tokens at a time, as the published reference does


class LocalRun:
    """A loaded pair that answers an evaluation's questions: two runners over the same weights.

    ``block`` is the number of tokens verified per round.

    Raises:
        DataError, AdapterError: the pair cannot be used as asked.
    """

    def __init__(self, settings: EvaluateSettings) -> None:
        assert settings.drafter is not None
        directory, drafted = target_directory(settings.target), resolve(settings.drafter)
        first_config(drafted)
        target = load_target(directory)
        drafter = load_drafter(drafted, target)
        block = settings.block_size or drafter.block_size
        if block > drafter.block_size:
            raise DataError(
                f"--block-size is {block}, but the drafter was trained with {drafter.block_size}"
            )
        self._settings, self._room = settings, target.max_context
        self._tokenizer = read_tokenizer(directory)
        self._stop_tokens = stop_tokens(directory)  # the target's own, as a server of it has them
        self._template = template_arguments(settings.thinking, self._tokenizer)
        self._speculative = _Way(DeviceRunner(target, drafter, block), self._config(block))
        self._plain = _Way(DeviceRunner(target, None, 1), self._config(1))
        self._turns, self._warm = 0, False
        self.block: int | None = block
        self.exact = exact_path()
        self.name = str(settings.target)
        ways = {**settings.decoding(), "block": block, "batch": settings.batch}
        self.fixed = {"target": fingerprint(directory), "drafter": fingerprint(drafted), **ways}
        self.settings = {"target": settings.target, "drafter": settings.drafter, **ways}

    def answer(self, conversations: Sequence[Conversation], file: ResponseFile, take: Take) -> None:
        """Answer what the file does not hold yet."""
        left = [one for one in conversations if not file.done(one)]
        if left and not self._warm:
            self.warm_up(left)
            self._warm = True
        for made in self.answers(left):
            take(made)

    @property
    def notes(self) -> dict[str, Any]:
        """Timed rounds that traced a graph first: the warm-up did not come to their shape."""
        return {"cold_rounds": self._plain.cold_rounds + self._speculative.cold_rounds}

    def close(self) -> None:
        """Let graphs and caches go, on the thread that made them."""
        self._plain.close()
        self._speculative.close()

    def warm_up(self, conversations: Sequence[Conversation]) -> None:
        """The longest answer to the longest prompt, both ways, before anything is timed.

        Caches come to every capacity then, and the graph of each is traced: answers do not end at
        stop tokens here. As many rows as there will be at once.
        """
        requests = []
        for one in conversations:
            with suppress(DataError):
                requests.append(self._request("", _Open(one), 0))
        if not requests:
            return
        longest = max(requests, key=lambda request: len(request.prompt))
        endless = replace(longest, stop_tokens=frozenset())
        rows = min(self._settings.batch, len(conversations))
        for way in (self._plain, self._speculative):
            way.run([replace(endless, id=str(row)) for row in range(rows)])
            way.cold_rounds = 0

    def answers(self, conversations: Sequence[Conversation]) -> Iterator[Response | Failure]:
        """Every turn of every conversation; replies are fed back into later turns."""
        batch = self._settings.batch
        for start in range(0, len(conversations), batch):
            wave = [_Open(one) for one in conversations[start : start + batch]]
            turn = 0
            while wave:
                yield from self._turn(wave, turn)
                turn += 1
                wave = [one for one in wave if turn == len(one.replies) < one.turns]

    def _turn(self, wave: Sequence["_Open"], turn: int) -> Iterator[Response | Failure]:
        requests: dict[str, EngineRequest] = {}
        asked: dict[str, _Open] = {}
        for index, one in enumerate(wave):
            try:
                requests[str(index)] = self._request(str(index), one, turn)
                asked[str(index)] = one
            except DataError as error:
                yield Failure(one.conversation.dataset, one.conversation.row, turn, str(error))
        if not requests:
            return
        told_all, made_all = self._both_ways(list(requests.values()))
        for name, one in asked.items():
            told, made = told_all[name], made_all[name]
            tokens = list(made.answer.tokens)
            text = self._tokenizer.backend.decode(tokens, skip_special_tokens=True)
            one.replies.append(text)
            yield Response(
                one.conversation.dataset,
                one.conversation.row,
                one.conversation.digest,
                turn,
                text,
                made.decoded(),
                told.decoded().without_rounds(),
                same=made.same_as(told),
            )

    def _both_ways(
        self, requests: Sequence[EngineRequest]
    ) -> tuple[dict[str, "_Made"], dict[str, "_Made"]]:
        """Plain answers and speculative ones; which way goes first alternates."""
        ways = (self._plain, self._speculative)
        order = ways[:: -1 if self._turns % 2 else 1]
        self._turns += 1
        made = {way: way.run(requests) for way in order}
        return made[self._plain], made[self._speculative]

    def _request(self, name: str, one: "_Open", turn: int) -> EngineRequest:
        messages, asked = one.conversation.messages(one.replies), self._settings
        try:
            prompt = self._tokenizer.encode_chat(messages, self._template)
        except TemplateError as error:
            raise DataError(str(error)) from error
        if len(prompt) >= self._room:
            raise DataError(
                f"the prompt has {len(prompt)} tokens, the target's context {self._room}"
            )
        seed = _seed(asked.seed, one, turn)
        sampling = SamplingParams(asked.temperature, asked.top_p, asked.top_k, seed=seed)
        return EngineRequest(name, prompt, asked.max_new, sampling, self._stop_tokens)

    def _config(self, block: int) -> EngineConfig:
        return EngineConfig(
            max_batch=self._settings.batch,
            max_queue=self._settings.batch,
            max_context=self._room,
            prefill_chunk=_PREFILL,
            block_size=block,
        )


class _Open:
    """A conversation on its way; owner of the replies so far."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.turns = len(conversation.turns)
        self.replies: list[str] = []


class _Way:
    """One way to decode: a runner, which keeps its caches and graphs from run to run."""

    def __init__(self, runner: DeviceRunner, config: EngineConfig) -> None:
        self._runner, self._config = runner, config
        self.cold_rounds = 0

    def run(self, requests: Sequence[EngineRequest]) -> dict[str, "_Made"]:
        """All requests together; answers by request id."""
        driver = Driver(self._runner, self._config, keep_steps=True)
        started = time.time()
        for request in requests:
            driver.add(request)
        run = driver.finish()
        self.cold_rounds += sum(step.cold for step in run.steps)
        return {key: _Made(answer, started) for key, answer in run.answers.items()}

    def close(self) -> None:
        self._runner.close()


@dataclass(frozen=True, slots=True)
class _Made:
    """One request's answer. ``started`` is a Unix time."""

    answer: Answer
    started: float

    def decoded(self) -> Decoded:
        usage = self.answer.usage
        ended = self.started + usage.time_to_first_token + usage.decode_time
        span = (self.started, ended)
        return Decoded.of_rounds(
            usage.completion_tokens, span, usage.decode_time, self.answer.rounds
        )

    def same_as(self, other: "_Made") -> bool:
        """Whether both have the same tokens, and ended for the same reason."""
        mine, theirs = self.answer, other.answer
        return mine.tokens == theirs.tokens and mine.finish is theirs.finish


def _seed(seed: int, one: _Open, turn: int) -> int:
    """Its own for every turn, the same in every evaluation with ``seed``."""
    key = f"{seed}/{one.conversation.dataset}/{one.conversation.row}/{turn}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
