"""Answers turns with a loaded pair through the engine's own scheduler and runner, both ways.

Speculative and plain decoding take turns on the same prompts, in one process and on one thread;
which one goes first alternates.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
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
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.evaluate.prompts import Conversation
from dflash_serve.training.evaluate.records import Decoded, Failure, Response, ResponseFile, Take
from dflash_serve.training.evaluate.settings import EvaluateSettings

_PREFILL = 2048  # prompt tokens at a time, as the published reference does


class LocalRun:
    """A loaded pair that answers an evaluation's questions. ``block`` is what it verifies at once.

    Raises:
        DataError, AdapterError: the pair cannot be used as asked.
    """

    def __init__(self, settings: EvaluateSettings) -> None:
        assert settings.drafter is not None
        directory, drafted = target_directory(settings.target), resolve(settings.drafter)
        first_config(drafted)
        target = load_target(directory)
        drafter = load_drafter(drafted, target)
        self.block: int | None = settings.block_size or drafter.block_size
        if self.block > drafter.block_size:
            raise DataError(
                f"--block-size is {self.block}, but the drafter was trained "
                f"with {drafter.block_size}"
            )
        voice = Voice.load(directory, target)
        template = template_arguments(settings.thinking, voice.tokenizer.template_reads)
        sampling = SamplingParams(
            settings.temperature, settings.top_p, settings.top_k, seed=settings.seed
        )
        self._asking = Asking(settings.max_new, sampling, template)
        self._pair = Pair(target, drafter, voice, block=self.block, batch=settings.batch)
        self._warm = False
        self.exact = exact_path()
        self.name = str(settings.target)
        ways = {**settings.decoding(), "block": self.block, "batch": settings.batch}
        self.fixed = {"target": fingerprint(directory), "drafter": fingerprint(drafted), **ways}
        self.settings = {"target": settings.target, "drafter": settings.drafter, **ways}

    def answer(self, conversations: Sequence[Conversation], file: ResponseFile, take: Take) -> None:
        """Answer what the file does not hold yet."""
        left = [one for one in conversations if not file.done(one)]
        if left and not self._warm:
            self._pair.warm_up(left, self._asking)
            self._warm = True
        for made in self._pair.answers(left, self._asking):
            take(made)

    @property
    def notes(self) -> dict[str, Any]:
        """What of the run itself belongs to the results."""
        return {"cold_rounds": self._pair.cold_rounds}

    def close(self) -> None:
        self._pair.close()


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
        return cls(ChatTokenizer.load(directory), stop_tokens(directory), target.max_context)

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
        self._turns = 0

    def warm_up(self, conversations: Sequence[Conversation], asking: Asking) -> None:
        """The longest answer to the longest prompt, both ways, before anything is timed.

        Caches come to every capacity then, and the graph of each is traced: answers do not end at
        stop tokens here. As many rows as there will be at once.
        """
        prompts = []
        for one in conversations:
            with suppress(DataError):
                prompts.append(self._request("", _Open(one), 0, asking).prompt)
        if not prompts:
            return
        prompt = max(prompts, key=len)
        rows = min(self._batch, len(conversations))
        names = [str(number) for number in range(rows)]
        endless = [EngineRequest(name, prompt, asking.max_new, asking.sampling) for name in names]
        for way in (self._plain, self._speculative):
            way.run(endless)
            way.cold_rounds = 0

    @property
    def cold_rounds(self) -> int:
        """Timed rounds that traced a graph first, of a shape that the warm-up did not come to."""
        return self._plain.cold_rounds + self._speculative.cold_rounds

    def close(self) -> None:
        """Let graphs and caches go, on the thread that made them."""
        self._plain.close()
        self._speculative.close()

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
        told_all, made_all = self._both_ways(list(requests.values()))
        for name, one in asked.items():
            told, made = told_all[name], made_all[name]
            text = self._voice.text(made.answer.tokens)
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
