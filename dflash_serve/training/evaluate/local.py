"""Answers turns with a loaded pair through the engine's own scheduler and runner, both ways.

Speculative and plain decoding take turns on the same prompts, in one process and on one thread.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.adapters.checkpoint import stop_token_ids
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, FinishReason, SamplingParams, Usage
from dflash_serve.measure.driver import Round, drive
from dflash_serve.text.errors import TemplateError
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data import DataError
from dflash_serve.training.evaluate.prompts import Conversation
from dflash_serve.training.evaluate.records import Decoded, Failure, Response

_PREFILL = 2048  # prompt tokens at a time, as the published reference does
_WARM_UP = 64  # tokens


@dataclass(frozen=True, slots=True)
class Asking:
    """How every turn is asked. ``sampling.seed`` seeds the whole evaluation."""

    max_new: int
    sampling: SamplingParams
    template: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Voice:
    """What turns messages into tokens and back: tokenizer, stop tokens, room in tokens."""

    tokenizer: ChatTokenizer
    stop_tokens: frozenset[int]
    max_context: int

    @classmethod
    def load(cls, directory: Path, target: TargetAdapter) -> "Voice":
        """The target's own: they are what a server of it would use."""
        return cls(ChatTokenizer.load(directory), stop_token_ids(directory), target.max_context)

    def text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.backend.decode(list(tokens), skip_special_tokens=True)


class Pair:
    """A target with and without its drafter: two runners over the same weights.

    ``block`` is the number of tokens verified per round, ``batch`` that of conversations at once.
    """

    def __init__(
        self,
        target: TargetAdapter,
        drafter: DraftAdapter,
        voice: Voice,
        *,
        block: int,
        batch: int,
    ) -> None:
        self._voice, self._batch = voice, batch
        self._speculative = _Way(DeviceRunner(target, drafter, block), self._config(block))
        self._plain = _Way(DeviceRunner(target, None, 1), self._config(1))

    def warm_up(self, conversation: Conversation, asking: Asking) -> None:
        """A short answer both ways, so that graphs are compiled before anything is timed."""
        short = replace(asking, max_new=min(_WARM_UP, asking.max_new))
        list(self._turn([_Open(conversation)], 0, short))

    def answers(
        self, conversations: Sequence[Conversation], asking: Asking
    ) -> Iterator[Response | Failure]:
        """Every turn of every conversation; replies are fed back into later turns."""
        for start in range(0, len(conversations), self._batch):
            wave = [_Open(one) for one in conversations[start : start + self._batch]]
            turn = 0
            while wave:
                yield from self._turn(wave, turn, asking)
                turn += 1
                wave = [one for one in wave if turn == len(one.replies) < one.turns]

    def _turn(
        self, wave: Sequence["_Open"], turn: int, asking: Asking
    ) -> Iterator[Response | Failure]:
        requests: dict[str, EngineRequest] = {}
        asked: dict[str, _Open] = {}
        for index, one in enumerate(wave):
            try:
                requests[str(index)] = self._request(str(index), one, turn, asking)
                asked[str(index)] = one
            except DataError as error:
                yield Failure(one.conversation.dataset, one.conversation.row, turn, str(error))
        if not requests:
            return
        plain = self._plain.run(list(requests.values()))
        speculative = self._speculative.run(list(requests.values()))
        for name, one in asked.items():
            told, made = plain[name], speculative[name]
            text = self._voice.text(made.tokens)
            one.replies.append(text)
            yield Response(
                one.conversation.dataset,
                one.conversation.row,
                one.conversation.digest,
                turn,
                text,
                made.decoded(),
                told.decoded().without_rounds(),
                same=told.tokens == made.tokens and told.finish is made.finish,
            )

    def _request(self, name: str, one: "_Open", turn: int, asking: Asking) -> EngineRequest:
        messages = one.conversation.messages(one.replies)
        try:
            prompt = self._voice.tokenizer.encode_chat(messages, asking.template)
        except TemplateError as error:
            raise DataError(str(error)) from error
        room = self._voice.max_context
        if len(prompt) >= room:
            raise DataError(f"the prompt has {len(prompt)} tokens, the target's context {room}")
        sampling = replace(asking.sampling, seed=_seed(asking.sampling.seed, one, turn))
        return EngineRequest(name, prompt, asking.max_new, sampling, self._voice.stop_tokens)

    def _config(self, block: int) -> EngineConfig:
        return EngineConfig(
            max_batch=self._batch,
            max_queue=self._batch,
            max_context=self._voice.max_context,
            prefill_chunk=_PREFILL,
            block_size=block,
        )


def template_arguments(thinking: str, reads: Callable[[str], bool]) -> dict[str, Any]:
    """Keyword arguments of the chat template for ``thinking``: off, on, default or a level.

    ``reads`` says whether the template knows an argument. ``off`` means nothing to a template that
    cannot think.

    Raises:
        DataError: the template knows nothing of what is asked.
    """
    if thinking in {"on", "off"}:
        if reads("enable_thinking"):
            return {"enable_thinking": thinking == "on"}
        if thinking == "off":
            return {}
        raise DataError("--thinking is 'on', but the target's chat template has no enable_thinking")
    if thinking == "default":
        return {}
    for name in ("reasoning_strength", "reasoning_effort"):
        if reads(name):
            return {name: thinking}
    raise DataError(f"--thinking is {thinking!r}, but the target's chat template knows no levels")


class _Open:
    """A conversation on its way; owner of the replies so far."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.turns = len(conversation.turns)
        self.replies: list[str] = []


class _Answer:
    """One request's tokens and rounds so far."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._rounds: list[Round] = []
        self.tokens: list[int] = []
        self.finish: FinishReason | None = None
        self.usage = Usage()

    def take_round(self, one: Round | None) -> None:
        if one is not None:
            self._rounds.append(one)

    def decoded(self) -> Decoded:
        usage = self.usage
        ended = self._started + usage.time_to_first_token + usage.decode_time
        return Decoded.of_rounds(
            usage.completion_tokens, (self._started, ended), usage.decode_time, self._rounds
        )


class _Way:
    """One way to decode: a runner, which keeps its caches and graphs from run to run."""

    def __init__(self, runner: DeviceRunner, config: EngineConfig) -> None:
        self._runner, self._config = runner, config

    def run(self, requests: Sequence[EngineRequest]) -> dict[str, _Answer]:
        """All requests together; answers by request id."""
        scheduler = Scheduler(self._config, time.perf_counter)
        started = time.time()
        answers = {request.id: _Answer(started) for request in requests}
        for request in requests:
            scheduler.add(request)
        for chunk, one in drive(scheduler, self._runner):
            answer = answers[chunk.request_id]
            answer.tokens += chunk.tokens
            answer.take_round(one)
            if chunk.finish is not None:
                answer.finish, answer.usage = chunk.finish, chunk.usage or answer.usage
        return answers


def _seed(seed: int, one: _Open, turn: int) -> int:
    """Its own for every turn, the same in every evaluation with ``seed``."""
    key = f"{seed}/{one.conversation.dataset}/{one.conversation.row}/{turn}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
