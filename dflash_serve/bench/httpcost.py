"""``dflash-bench http``: what HTTP, JSON and text cost per streamed chunk, and per first byte.

The first from a scripted engine that commits tokens at a fixed pace, so that nothing but the
server is at work; the second from a real pair, over a kept-alive connection and without one.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.clients import Client, beside, read_streams, time_requests
from dflash_serve.bench.inprocess import Served, context_for, serving
from dflash_serve.bench.options import HttpOptions
from dflash_serve.bench.pace import PacedEngine
from dflash_serve.bench.pair import target_directory
from dflash_serve.bench.report import canvas, table
from dflash_serve.bench.workloads import GENERIC, chats_of, pick
from dflash_serve.compose.directories import checkpoints
from dflash_serve.compose.loading import load
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.types import EngineRequest, SamplingParams, TokenChunk
from dflash_serve.measure.figures import middle, percentile
from dflash_serve.measure.results import Result
from dflash_serve.measure.shapes import Chat
from dflash_serve.server.context import ServerContext
from dflash_serve.server.settings import Settings
from dflash_serve.text.stream import Detokenizer
from dflash_serve.text.tokenizer import ChatTokenizer

_MODEL = "measured"
_WARM_UP = 6


def run(options: HttpOptions) -> Result:
    """Both measurements, in turns with what they are compared with."""
    measured = {"first_text": _first_text(options), "per_chunk": _per_chunk(options)}
    return Result("http", options.recorded(), measured)


def _first_text(options: HttpOptions) -> dict[str, Any]:
    """Seconds to the first text, in turns over HTTP and from the engine; the same prompts."""
    names = Settings(target=options.target, drafter=options.drafter, served_model_name=_MODEL)
    target, drafter = checkpoints(names)
    chats = pick(chats_of(None, demo=options.target is None), options.prompts, options.seed)
    tokenizer = ChatTokenizer.load(target)
    engines: list[AsyncEngine] = []

    async def make() -> ServerContext:
        engine = AsyncEngine(lambda: load(names, target, drafter))
        engine.start()
        await engine.loaded()
        engines.append(engine)
        return context_for(engine, target, names)

    with serving(make) as served, beside(time_requests, served.port) as client:
        sides = _Sides(served, engines[0], tokenizer, client)
        for chat in [*chats, *chats][:_WARM_UP]:
            sides.measure(chat, 0)
        samples = [sides.measure(chat, number) for number, chat in enumerate(chats)]
    return _differences(samples)


@dataclass(frozen=True, slots=True)
class _Sample:
    """Seconds from sending a request to its first bytes and first text, and in process."""

    first_byte: float
    over_http: float
    in_process: float


class _Sides:
    """One engine, reached over a kept-alive connection from another process and directly."""

    def __init__(
        self, served: Served, engine: AsyncEngine, tokenizer: ChatTokenizer, client: Client
    ) -> None:
        self._served = served
        self._engine = engine
        self._tokenizer = tokenizer
        self._client = client

    def measure(self, chat: Chat, number: int) -> _Sample:
        """Both ways, the order changing from sample to sample."""
        prompt = self._tokenizer.encode_chat([dict(message) for message in chat.messages], {})
        if number % 2:
            direct = self._served.call(self._direct(prompt, number))
            return _Sample(*self._over_http(chat), direct)
        first, text = self._over_http(chat)
        return _Sample(first, text, self._served.call(self._direct(prompt, number)))

    def _over_http(self, chat: Chat) -> tuple[float, float]:
        body = {
            "model": _MODEL,
            "messages": [dict(message) for message in chat.messages],
            "max_tokens": 16,
            "temperature": 0,
            "stream": True,
        }
        first, text = self._client.ask(json.dumps(body))
        return first, text

    async def _direct(self, prompt: tuple[int, ...], number: int) -> float:
        """On the event loop that the engine hands its chunks to, as the server reads them."""
        pieces = Detokenizer(self._tokenizer.token_text)
        request = EngineRequest(f"direct-{number}", prompt, 16, SamplingParams(temperature=0.0))
        started = time.perf_counter()
        first = 0.0
        async for chunk in self._engine.submit(request):
            text = "".join([pieces.push(token) for token in chunk.tokens])
            if text and not first:
                first = time.perf_counter() - started
        return first


def _differences(samples: Sequence[_Sample]) -> dict[str, Any]:
    later = [sample.over_http - sample.in_process for sample in samples]
    return {
        "requests": len(samples),
        "over_http": _spread([sample.over_http for sample in samples]),
        "in_process": _spread([sample.in_process for sample in samples]),
        "later_over_http": _spread(later),
        "first_byte": _spread([sample.first_byte for sample in samples]),
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": middle(seconds), "p95": percentile(seconds, 95)}


def _per_chunk(options: HttpOptions) -> dict[str, Any]:
    """CPU time of the event loop's thread, with streams over HTTP and with the engine alone."""
    target = target_directory(options.target)
    text = " ".join(message["content"] for chat in GENERIC for message in chat.messages)
    runs = []
    for _ in range(options.repeats):
        engine = PacedEngine(options.chunks, options.tokens, options.pace)

        async def make(engine: PacedEngine = engine) -> ServerContext:
            names = Settings(target=options.target, served_model_name=_MODEL)
            context = context_for(engine, target, names)
            engine.say(context.tokenizer.encode_raw(text))
            return context

        with serving(make) as served:
            _stream(served, 1)  # what is imported and cached on first use
            runs.append((_cpu(served, engine, options.streams), _alone(served, engine, options)))
    chunks = options.streams * options.chunks
    served_ms = [1e3 * over.thread / chunks for over, _ in runs]
    alone_ms = [1e3 * alone.thread / chunks for _, alone in runs]
    return {
        "chunks": chunks,
        "thread_ms": middle(served_ms),
        "engine_alone_ms": middle(alone_ms),
        "http_json_text_ms": middle([a - b for a, b in zip(served_ms, alone_ms, strict=True)]),
        "process_ms": middle([1e3 * over.process / chunks for over, _ in runs]),
        "thread_ms_repeats": served_ms,
    }


@dataclass(frozen=True, slots=True)
class _Cpu:
    """CPU seconds: of the event loop's thread, and of the whole process."""

    thread: float
    process: float


async def _clocks() -> _Cpu:
    return _Cpu(time.thread_time(), time.process_time())


def _cpu(served: Served, engine: PacedEngine, streams: int) -> _Cpu:
    """While other processes read ``streams`` streams, from their start to their end."""
    before = served.call(_clocks())
    _stream(served, streams)
    return _since(before, served.call(_clocks()))


def _alone(served: Served, engine: PacedEngine, options: HttpOptions) -> _Cpu:
    """The same chunks taken from the engine by tasks that do nothing with them."""

    async def take(number: int) -> None:
        async for _ in _chunks(engine, number):
            pass

    async def take_all() -> None:
        await asyncio.gather(*(take(number) for number in range(options.streams)))

    before = served.call(_clocks())
    served.call(take_all())
    return _since(before, served.call(_clocks()))


def _chunks(engine: PacedEngine, number: int) -> AsyncIterator[TokenChunk]:
    return engine.submit(EngineRequest(f"alone-{number}", (1,), 1))


def _since(before: _Cpu, after: _Cpu) -> _Cpu:
    return _Cpu(after.thread - before.thread, after.process - before.process)


def _stream(served: Served, streams: int) -> None:
    """Read ``streams`` streams to their end, in another process."""
    with beside(read_streams, served.port, _MODEL, streams) as client:
        client.ask()


_FIRST = {
    "in_process": "first text, in process",
    "over_http": "first text, over HTTP",
    "later_over_http": "later over HTTP",
    "first_byte": "first byte, over HTTP",
}
_CHUNK = {
    "http_json_text_ms": "HTTP, JSON and text",
    "engine_alone_ms": "the scripted engine alone",
    "thread_ms": "the event loop's thread",
    "process_ms": "the whole process",
}


def tables(result: Result) -> list[Table]:
    first, chunk = result.measured["first_text"], result.measured["per_chunk"]
    rows = [
        (name, 1e3 * first[key]["median"], 1e3 * first[key]["p95"]) for key, name in _FIRST.items()
    ]
    costs = [(name, chunk[key]) for key, name in _CHUNK.items()]
    return [
        table("Milliseconds on a kept-alive connection", ("until", "median", "p95"), rows),
        table("CPU milliseconds per streamed chunk", ("of", "median"), costs),
    ]


def plot(result: Result) -> Figure:
    """The cost of a chunk, part by part."""
    chunk = result.measured["per_chunk"]
    figure, axes = canvas(6, 3)
    axes.barh(list(_CHUNK.values()), [chunk[key] for key in _CHUNK])
    axes.set(title="What a streamed chunk costs", xlabel="CPU milliseconds")
    axes.invert_yaxis()
    return figure
