"""A scripted engine, a small real chat tokenizer and a real socket for the server's tests."""

import asyncio
import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dflash_serve.compose.cards import ModelCard
from dflash_serve.compose.drafting import DrafterCard, DrafterRefused, DrafterSwitch
from dflash_serve.engine.client import EngineState
from dflash_serve.engine.errors import EngineError
from dflash_serve.engine.grammar import GrammarCompiler
from dflash_serve.engine.types import (
    EngineRequest,
    EngineStats,
    FinishReason,
    TokenChunk,
    TokenLogprob,
    Usage,
)
from dflash_serve.server.answer import Answer
from dflash_serve.server.app import create_app
from dflash_serve.server.choice import Choice
from dflash_serve.server.connection import ConnectionLimits
from dflash_serve.server.context import ServerContext
from dflash_serve.server.grammars import Grammars
from dflash_serve.server.lifecycle import bind, http_config
from dflash_serve.server.recording import Recorder
from dflash_serve.server.settings import Settings
from dflash_serve.text.parsers import table
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.stream import Detokenizer, StopFinder, TextStream
from dflash_serve.text.tokenizer import ChatTokenizer

CHATML = (
    "{%- if tools %}{{- '<|im_start|>tools\\n' }}{%- for tool in tools %}{{- tool | tojson }}"
    "{%- endfor %}{{- '<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role not in ('system', 'user', 'assistant', 'tool') %}"
    "{{- raise_exception('no such role: ' + message.role) }}{%- endif %}"
    "{%- if message.role == 'system' and not loop.first %}"
    "{{- raise_exception('System message must be at the beginning') }}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.name %}{{- '[' + message.name + '] ' }}{%- endif %}"
    "{%- set content = message.content.split('</think>')[-1] if message.role == 'assistant' "
    "else message.content %}"
    "{{- content + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- if style is defined %}{{- '(' + style + ')' }}{%- endif %}{%- endif %}"
)
_CORPUS = ["The quick brown fox jumps over the lazy dog, again and again.", "hello world " * 5]


def save_tokenizer(directory: Path, template: str | None = CHATML) -> Path:
    """A byte-level BPE tokenizer with ChatML control tokens, in Hugging Face layout."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS * 10, trainer)
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    backend.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = template
    fast.save_pretrained(directory)
    return directory


@dataclass(frozen=True, slots=True)
class Script:
    """What the engine answers: blocks of tokens, then an end, or silence until aborted."""

    blocks: tuple[tuple[int, ...], ...] = ()
    finish: FinishReason = FinishReason.STOP
    error: str | None = None
    hang: bool = False
    pause: float = 0.0
    stop_token: int | None = None


@dataclass
class FakeEngine:
    """An EngineClient that plays scripts and keeps a record of what it was asked."""

    script: Callable[[EngineRequest], Script]
    state: EngineState = EngineState.READY
    max_context: int = 512
    refuse: EngineError | None = None
    refuse_after: int = 0
    full: EngineError | None = None
    requests: list[EngineRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    played: list[str] = field(default_factory=list)
    _live: dict[str, asyncio.Event] = field(default_factory=dict)

    def reset(self, script: Callable[[EngineRequest], Script]) -> None:
        """Another test's turn."""
        assert not self._live, "the last test left requests running"
        self.script, self.state = script, EngineState.READY
        self.refuse, self.refuse_after, self.full = None, 0, None
        self.requests, self.aborted, self.played = [], [], []

    @property
    def live(self) -> int:
        return len(self._live)

    def check_room(self) -> None:
        if self.full is not None:
            raise self.full

    def submit(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        if self.refuse is not None and len(self.requests) >= self.refuse_after:
            raise self.refuse
        self.requests.append(request)
        self._live[request.id] = asyncio.Event()
        return self._play(request, self._live[request.id])

    def abort(self, request_id: str) -> None:
        gone = self._live.pop(request_id, None)
        if gone is not None:
            self.aborted.append(request_id)
            gone.set()

    def stats(self) -> EngineStats:
        return EngineStats(running=self.live, slots=8, free_slots=8 - self.live)

    async def close(self, grace: float) -> None:
        self.state = EngineState.STOPPED
        for request_id in list(self._live):
            self.abort(request_id)

    async def _play(self, request: EngineRequest, gone: asyncio.Event) -> AsyncIterator[TokenChunk]:
        script, sent, rounds = self.script(request), 0, 0
        finish = script.finish
        try:
            for block in script.blocks:
                await asyncio.sleep(script.pause)
                tokens = block[: request.max_tokens - sent]
                if gone.is_set():
                    break
                sent, rounds = sent + len(tokens), rounds + 1
                if sent == request.max_tokens:
                    finish = FinishReason.LENGTH
                yield _chunk(request, tokens, first=rounds == 1)
                if finish is FinishReason.LENGTH:
                    break
            if script.hang:
                await gone.wait()
            finish = FinishReason.ABORTED if gone.is_set() else finish
            yield self._last(request, finish, sent, rounds, script)
        finally:
            self._live.pop(request.id, None)
            self.played.append(request.id)

    def _last(
        self,
        request: EngineRequest,
        finish: FinishReason,
        sent: int,
        rounds: int,
        script: Script,
    ) -> TokenChunk:
        total = sent + (finish is FinishReason.STOP)  # the stop token is counted, never emitted
        usage = Usage(
            prompt_tokens=len(request.prompt),
            completion_tokens=total,
            rounds=rounds,
            drafted=7 * rounds,
            accepted=max(0, total - 1 - rounds),
            time_to_first_token=0.01,
            decode_time=0.1,
        )
        stop_token = script.stop_token if finish is FinishReason.STOP else None
        probs = () if stop_token is None else _logprobs(request.logprobs, (stop_token,))
        return TokenChunk(
            request.id, (), finish, usage, script.error, stop_token=stop_token, logprobs=probs
        )


def _chunk(request: EngineRequest, tokens: tuple[int, ...], *, first: bool) -> TokenChunk:
    prompt: tuple[TokenLogprob | None, ...] = ()
    if first and request.prompt_logprobs is not None:
        prompt = (None, *_logprobs(request.prompt_logprobs, request.prompt[1:]))
    probs = _logprobs(request.logprobs, tokens)
    return TokenChunk(request.id, tokens, logprobs=probs, prompt_logprobs=prompt)


def _logprobs(top: int | None, tokens: tuple[int, ...]) -> tuple[TokenLogprob, ...]:
    """Token t has the log-probability -t / 1000; the most likely ones are itself and 0, 1, ..."""
    if top is None:
        return ()
    return tuple(
        TokenLogprob(
            token,
            -token / 1000,
            ((token, -token / 1000), *((other, -9.0 - other) for other in range(20)))[:top],
        )
        for token in tokens
    )


def blocks(ids: list[int], size: int = 4) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(ids[at : at + size]) for at in range(0, len(ids), size))


def saying(tokenizer: ChatTokenizer, text: str, **options: object) -> Callable[..., Script]:
    """A script that answers every request with ``text``, four tokens at a time."""
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    script = Script(blocks(ids), **options)  # type: ignore[arg-type]
    return lambda request: script


def choice(
    index: int, request: EngineRequest, tokenizer: ChatTokenizer, stops: Sequence[str] = ()
) -> Choice:
    """A choice whose text has no markup."""
    table = tokenizer.token_text
    text = TextStream(Detokenizer(table), StopFinder(stops))
    return Choice(index, request, text, Answer(index), table)


def model_card(**changes: object) -> ModelCard:
    facts: dict[str, object] = {
        "id": "fake/model",
        "created": 1,
        "max_context": 512,
        "vocab_size": 512,
    }
    return ModelCard(**(facts | changes))  # type: ignore[arg-type]


async def refuse(name: str) -> DrafterCard:
    raise DrafterRefused(f"no drafter {name}")


def make_app(
    engine: FakeEngine,
    tokenizer: ChatTokenizer,
    *,
    drafting: DrafterSwitch | None = None,
    recorder: Recorder | None = None,
    markup: Markup | None = None,
    **options: object,
) -> FastAPI:
    """An app that serves ``model_card()``; ``options`` are its settings."""
    settings = Settings(**options)  # type: ignore[arg-type]
    context = make_context(engine, tokenizer, settings, drafting, recorder, markup)
    return create_app(context)


def make_context(
    engine: FakeEngine,
    tokenizer: ChatTokenizer,
    settings: Settings | None = None,
    drafting: DrafterSwitch | None = None,
    recorder: Recorder | None = None,
    markup: Markup | None = None,
    *,
    model: ModelCard | None = None,
) -> ServerContext:
    """What routes get, around ``engine``."""
    model = model or model_card(stop_tokens=tokenizer.token_text.ids(["<|im_end|>"]))
    compiler = GrammarCompiler(
        tokenizer.backend.to_str(), model.vocab_size, sorted(model.stop_tokens)
    )
    settings = settings or Settings()
    return ServerContext(
        client=engine,
        tokenizer=tokenizer,
        model=model,
        drafting=drafting or DrafterSwitch(DrafterCard(), refuse),
        markup=markup or table.detect(tokenizer.template, tokenizer.added_tokens),
        thinking=_thinking_switch(tokenizer.template),
        grammars=Grammars(compiler),
        seed=settings.seed,
        recorder=recorder,
        settings=settings,
    )


_thinking_switch = functools.cache(table.thinking_switch)
"""Parsing a template takes longer than all else of a context."""


class _Server(uvicorn.Server):
    """Looks every hundredth of a second whether it is to end, not every tenth."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def serving(app: ASGIApp, limits: ConnectionLimits | None = None) -> Iterator[str]:
    """``app`` behind a real socket; gives its base URL."""
    server = _Server(http_config(app, limits))
    listener = bind(Settings(port=0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        eventually(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def asked(url: str, path: str, body: object) -> Iterator[None]:
    """A client that has sent a request and leaves at the end of the block, with nothing read."""
    parts, content = urlsplit(url), body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""])
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as wire:
        wire.sendall(head.encode() + content)
        yield


def eventually(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait until ``condition`` holds; fail if it never does."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.005)
