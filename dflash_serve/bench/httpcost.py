"""``dflash-bench http``: what HTTP, JSON and text cost per streamed chunk, and per first byte.

The first from a scripted engine that commits tokens at a fixed pace, so that nothing but the
server is at work; the second from a real pair, over a kept-alive connection and without one.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.bench.clients import another_process, read_streams, time_request
from dflash_serve.bench.inprocess import PacedEngine, Served, context_for, serving
from dflash_serve.bench.options import HttpOptions
from dflash_serve.bench.report import bars, picture, table_of
from dflash_serve.bench.workloads import GENERIC, chats_of, pick
from dflash_serve.compose.directories import checkpoints, target_directory
from dflash_serve.compose.loading import load
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.types import EngineRequest
from dflash_serve.measure.figures import middle, percentile
from dflash_serve.measure.results import Result
from dflash_serve.measure.shapes import Chat
from dflash_serve.server.context import ServerContext
from dflash_serve.server.settings import Settings
from dflash_serve.text.stream import Detokenizer
from dflash_serve.text.tokenizer import ChatTokenizer

_MODEL = "measured"
_WARM_UP, _TOKENS = 6, 16


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

    with serving(make) as served, another_process() as client:
        for chat in [*chats, *chats][:_WARM_UP]:
            _sample(served, engines[0], tokenizer, client, chat)
        samples = [
            _sample(served, engines[0], tokenizer, client, chat, swap=number % 2 == 1)
            for number, chat in enumerate(chats)
        ]
    first, text, direct = (list(seconds) for seconds in zip(*samples, strict=True))
    return {
        "requests": len(samples),
        "over_http": _spread(text),
        "in_process": _spread(direct),
        "later_over_http": _spread([a - b for a, b in zip(text, direct, strict=True)]),
        "first_byte": _spread(first),
    }


def _sample(
    served: Served,
    engine: AsyncEngine,
    tokenizer: ChatTokenizer,
    client: ProcessPoolExecutor,
    chat: Chat,
    *,
    swap: bool = False,
) -> tuple[float, float, float]:
    """Seconds to the first byte and the first text over HTTP, and to the latter in process.

    HTTP comes first, without ``swap``.
    """
    body = {
        "model": _MODEL,
        "messages": [dict(message) for message in chat.messages],
        "max_tokens": _TOKENS,
        "temperature": 0,
        "stream": True,
    }
    prompt = tokenizer.encode_chat(chat.messages, {})
    times: dict[str, Any] = {}
    for way in ("direct", "http") if swap else ("http", "direct"):
        if way == "http":
            times[way] = client.submit(time_request, served.port, json.dumps(body)).result()
        else:
            times[way] = served.call(_direct(engine, tokenizer, prompt))
    return *times["http"], times["direct"]


async def _direct(engine: AsyncEngine, tokenizer: ChatTokenizer, prompt: tuple[int, ...]) -> float:
    """On the event loop that the engine hands its chunks to, as the server reads them."""
    pieces = Detokenizer(tokenizer.token_text)
    started = time.perf_counter()
    first = 0.0
    async for chunk in engine.submit(EngineRequest("direct", prompt, _TOKENS)):
        text = "".join([pieces.push(token) for token in chunk.tokens])
        if text and not first:
            first = time.perf_counter() - started
    return first


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": middle(seconds), "p95": percentile(seconds, 95)}


def _per_chunk(options: HttpOptions) -> dict[str, Any]:
    """CPU time of the event loop's thread, with streams over HTTP and with the engine alone."""
    target = target_directory(options.target)
    text = " ".join(message["content"] for chat in GENERIC for message in chat.messages)
    chunks = options.streams * options.chunks
    over, whole, alone = [], [], []
    for _ in range(options.repeats):
        engine = PacedEngine(options.chunks, options.tokens, options.pace)

        async def make(engine: PacedEngine = engine) -> ServerContext:
            names = Settings(target=options.target, served_model_name=_MODEL)
            context = context_for(engine, target, names)
            engine.say(context.tokenizer.encode_raw(text))
            return context

        with serving(make) as served:
            _read(served, 1)  # what is imported and cached on first use
            thread, process = _spent(served, partial(_read, served, options.streams))
            over.append(1e3 * thread / chunks)
            whole.append(1e3 * process / chunks)
            take = _take_all(engine, options.streams)
            thread, _ = _spent(served, partial(served.call, take))
            alone.append(1e3 * thread / chunks)
    return {
        "chunks": chunks,
        "thread_ms": middle(over),
        "engine_alone_ms": middle(alone),
        "http_json_text_ms": middle([a - b for a, b in zip(over, alone, strict=True)]),
        "process_ms": middle(whole),
        "thread_ms_repeats": over,
    }


def _spent(served: Served, work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds while ``work`` goes on: of the event loop's thread, and of the process."""

    async def clocks() -> tuple[float, float]:
        return time.thread_time(), time.process_time()

    before = served.call(clocks())
    work()
    after = served.call(clocks())
    return after[0] - before[0], after[1] - before[1]


def _read(served: Served, streams: int) -> None:
    """Read ``streams`` streams to their end, in another process."""
    with another_process() as client:
        client.submit(read_streams, served.port, _MODEL, streams).result()


async def _take_all(engine: PacedEngine, streams: int) -> None:
    """The same chunks taken from the engine by tasks that do nothing with them."""

    async def take(number: int) -> None:
        async for _ in engine.submit(EngineRequest(f"alone-{number}", (1,), 1)):
            pass

    await asyncio.gather(*(take(number) for number in range(streams)))


_FIRST = ("in_process", "over_http", "later_over_http", "first_byte")
_CHUNK = ("http_json_text_ms", "engine_alone_ms", "thread_ms", "process_ms")


def tables(result: Result) -> list[Table]:
    first, chunk = result.measured["first_text"], result.measured["per_chunk"]
    waits = [{"until": key, **first[key]} for key in _FIRST]
    return [
        table_of("Seconds to text, on a kept-alive connection", waits, "until median p95"),
        table_of("CPU milliseconds per streamed chunk", [chunk], _CHUNK),
    ]


def plot(result: Result) -> Figure:
    """The cost of a chunk, part by part."""
    chunk = [result.measured["per_chunk"]]
    return picture(bars("CPU time per streamed chunk", chunk, "chunks", _CHUNK), height=3)
