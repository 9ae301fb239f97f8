"""Answers turns with a loaded pair through the engine's own scheduler and runner, both ways.

Speculative and plain decoding take turns on the same prompts, in one process and on one thread;
which one goes first alternates.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
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

Wave = list[tuple[Conversation, list[str]]]
"""Conversations that are answered together, and the replies so far."""
Answers = dict[str, tuple[Answer, Decoded]]
"""By request id, with what each cost."""


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
                requests.append(self._request("", one, []))
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
            wave: Wave = [(one, []) for one in conversations[start : start + batch]]
            turn = 0
            while wave:
                yield from self._turn(wave, turn)
                turn += 1
                wave = [one for one in wave if turn == len(one[1]) < len(one[0].turns)]

    def _turn(self, wave: Wave, turn: int) -> Iterator[Response | Failure]:
        requests: dict[str, EngineRequest] = {}
        asked: Wave = []
        for one, replies in wave:
            name = str(len(asked))
            try:
                requests[name] = self._request(name, one, replies)
                asked.append((one, replies))
            except DataError as error:
                yield Failure(one.dataset, one.row, turn, str(error))
        if not requests:
            return
        plain, speculative = self._both_ways(list(requests.values()))
        for name, (one, replies) in zip(requests, asked, strict=True):
            (told, cost), (made, drafted) = plain[name], speculative[name]
            text = self._tokenizer.backend.decode(list(made.tokens), skip_special_tokens=True)
            replies.append(text)
            yield Response(
                one.dataset,
                one.row,
                one.digest,
                turn,
                text,
                drafted,
                cost.without_rounds(),
                same=made.tokens == told.tokens and made.finish is told.finish,
            )

    def _both_ways(self, requests: Sequence[EngineRequest]) -> tuple[Answers, Answers]:
        """Plain answers and speculative ones; which way goes first alternates."""
        ways = (self._plain, self._speculative)
        order = ways[:: -1 if self._turns % 2 else 1]
        self._turns += 1
        made = {way: way.run(requests) for way in order}
        return made[self._plain], made[self._speculative]

    def _request(self, name: str, one: Conversation, replies: list[str]) -> EngineRequest:
        messages, asked = one.messages(replies), self._settings
        try:
            prompt = self._tokenizer.encode_chat(messages, self._template)
        except TemplateError as error:
            raise DataError(str(error)) from error
        if len(prompt) >= self._room:
            raise DataError(
                f"the prompt has {len(prompt)} tokens, the target's context {self._room}"
            )
        seed = _seed(asked.seed, one, len(replies))
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


class _Way:
    """One way to decode: a runner, which keeps its caches and graphs from run to run."""

    def __init__(self, runner: DeviceRunner, config: EngineConfig) -> None:
        self._runner, self._config = runner, config
        self.cold_rounds = 0

    def run(self, requests: Sequence[EngineRequest]) -> Answers:
        """All requests together."""
        driver = Driver(self._runner, self._config, keep_steps=True)
        started = time.time()
        for request in requests:
            driver.add(request)
        run = driver.finish()
        self.cold_rounds += sum(step.cold for step in run.steps)
        return {key: (answer, _decoded(answer, started)) for key, answer in run.answers.items()}

    def close(self) -> None:
        self._runner.close()


def _decoded(answer: Answer, started: float) -> Decoded:
    usage = answer.usage
    ended = started + usage.time_to_first_token + usage.decode_time
    span = (started, ended)
    return Decoded.of_rounds(usage.completion_tokens, span, usage.decode_time, answer.rounds)


def _seed(seed: int, one: Conversation, turn: int) -> int:
    """Its own for every turn, the same in every evaluation with ``seed``."""
    key = f"{seed}/{one.dataset}/{one.row}/{turn}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
