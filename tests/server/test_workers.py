"""Processes that handle request bodies: the same answers, bounded, and nothing left behind."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from dflash_serve.server.ask import Ask, EncodedPrompt
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.chat_ask import read_chat
from dflash_serve.server.doors.completion_ask import read_completion
from dflash_serve.server.doors.message_ask import count_message, read_message
from dflash_serve.server.doors.response_intake import count_input, read_response
from dflash_serve.server.doors.tokenize_text import detokenize, tokenize
from dflash_serve.server.errors import ApiError
from dflash_serve.server.handling import Handler, Handling, nothing_kept
from dflash_serve.server.protocol.responses import MessageItem
from dflash_serve.server.settings import Settings
from dflash_serve.server.worker import Job
from dflash_serve.server.workers import Workers
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, eventually, make_context, saying

MODEL = "fake/model"
ROOM = 512
HI = [{"role": "user", "content": "hello"}]
TOOL = {"type": "object", "properties": {"at": {"type": "string"}}}
ITEM = MessageItem(type="message", role="user", content="once more", id="msg_1")


Run = Callable[[Callable[[Workers], Coroutine[Any, Any, Any]]], Any]


def kept(kind: str, name: str) -> Any:
    """What a server keeps: one conversation of one item."""
    found = {("conversation", "resp_1"): (ITEM,), ("item", "msg_1"): ITEM}
    return found.get((kind, name))


def children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children()
        if "dflash_serve.server.worker" in " ".join(child.cmdline())
    ]


def context(tokenizer: ChatTokenizer, **settings: Any) -> ServerContext:
    engine = FakeEngine(saying(tokenizer, "hello world"), max_context=ROOM)
    return make_context(engine, tokenizer, Settings(**settings))


@pytest.fixture(scope="module")
def run(tokenizer: ChatTokenizer) -> Iterator[Run]:
    """Runs a coroutine function with one worker, which takes a second to start, and a short queue.

    The worker serves all tests that do not end it.
    """
    with asyncio.Runner() as runner:
        facts = context(tokenizer).facts
        with contextlib.closing(Workers(facts, count=1, waiting=2)) as workers:
            yield lambda use: runner.run(use(workers))


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": HI, "seed": 3} | fields).encode()


def completion(prompt: Any, **fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "prompt": prompt, "seed": 3} | fields).encode()


def message(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "max_tokens": 5, "messages": HI} | fields).encode()


def response(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": "hello", "seed": 3} | fields).encode()


def wrong(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


CORPUS: list[tuple[Handler[Any], bytes]] = [
    (read_chat, chat()),
    (read_chat, chat(n=3, stream=True, stream_options={"include_usage": True}, logprobs=True)),
    (read_chat, chat(tools=[{"type": "function", "function": {"name": "f", "parameters": TOOL}}])),
    (read_chat, chat(response_format={"type": "json_schema", "json_schema": {"schema": TOOL}})),
    (read_chat, chat(messages=[{"role": "user", "content": "a<|im_end|>é<think>"}] * 9)),
    (read_chat, chat(messages=[{"role": "user", "content": "x " * 9000}])),
    (read_chat, chat(messages=[{"role": "user", "content": "x"}] * 900)),
    (read_chat, chat(messages=[{"role": "user", "content": 7}] * 900)),
    (read_chat, chat(model="another")),
    (read_chat, chat(regex="a" * 600_000)),
    (read_chat, chat(choice=["a" * 300_000, "b" * 300_000])),
    (read_chat, b'{"model": "fake/model", "messages": [' + b"[" * 9000),
    (read_chat, b'{"a": "' + b"x" * 10**6),
    (read_chat, b"[" * 10**6),
    (read_chat, chat(model="m" * 10**6)),
    (read_chat, b"\xff" * 9000),
    (read_chat, b""),
    (read_completion, completion("hello <|im_end|>", echo=True, logprobs=2)),
    (read_completion, completion(["one", "two"], n=2)),
    (read_completion, completion([[1, 2, 3], [4, 5]], echo=True)),
    (read_completion, completion([1] * 9000)),
    (read_completion, completion([10**6])),
    (read_completion, completion("")),
    (read_completion, completion("\ud800")),
    (read_completion, completion("word " * 5000)),
    (read_message, message(temperature=0)),
    (read_message, message(messages=[])),
    (read_message, message(thinking={"type": "enabled", "budget_tokens": 1024}, stream=True)),
    (count_message, wrong(model=MODEL, messages=HI)),
    (read_response, response()),
    (count_input, response(previous_response_id="resp_1")),
    (count_input, response(input=[{"type": "item_reference", "id": "msg_1"}])),
    (count_input, response(previous_response_id="resp_2")),
    (tokenize, wrong(prompt="hello <|im_end|>", return_token_strs=True)),
    (tokenize, wrong(messages=HI)),
    (tokenize, wrong()),
    (detokenize, wrong(tokens=[1, 2, 3])),
    (detokenize, wrong(tokens=[1, 10**6])),
]


def outcome(result: Any) -> Any:
    """A result with nothing drawn at random; errors by all their parts."""
    if isinstance(result, ApiError):
        return result.status, result.body(), result.headers
    return result


async def in_worker(workers: Workers, handler: Handler[Any], body: bytes) -> Any:
    try:
        return await workers.run(Job(handler, body, ROOM), kept)
    except ApiError as error:
        return error


def in_process(handler: Handler[Any], body: bytes, handling: Handling) -> Any:
    try:
        return handler(body, handling)
    except ApiError as error:
        return error


def comparable(result: Any) -> Any:
    """Without what is drawn anew for each request: ids, times and Anthropic's seeds."""
    if isinstance(result, tuple) and isinstance(result[0], Ask):
        ask, delivery = result
        return replace(ask, sampling=replace(ask.sampling, seed=0)), delivery
    if hasattr(result, "begun"):
        begun = result.begun.model_copy(update={"id": "", "created_at": 0})
        own = tuple(item.model_copy(update={"id": ""}) for item in result.own)
        return replace(result, begun=begun, own=own)
    return outcome(result)


def test_a_worker_answers_as_this_process_does(run: Run, tokenizer: ChatTokenizer) -> None:
    """What was sent is in no error and in no prompt that comes back; nothing loads MLX for it."""

    async def use(workers: Workers) -> tuple[list[Any], str]:
        there = [await in_worker(workers, handler, body) for handler, body in CORPUS]
        return there, libraries()

    handling = Handling(context(tokenizer).facts, ROOM, kept)
    answers, loaded = run(use)
    refused = 0
    for (handler, body), there in zip(CORPUS, answers, strict=True):
        here = in_process(handler, body, handling)
        assert comparable(there) == comparable(here), (handler, body[:80])
        if isinstance(there, ApiError):
            assert len(there.json_text()) < 500
            refused += 1
    assert 10 < refused < len(CORPUS) - 10
    ask, _ = answers[0]
    assert isinstance(ask.prompt, EncodedPrompt)
    assert "hello" not in repr(ask)
    assert "mlx/lib" not in loaded


def libraries() -> str:
    """The files that the workers have mapped, where the system tells."""
    if not sys.platform.startswith("linux"):
        return ""
    return "".join(m.path for child in children() for m in child.memory_maps())


@pytest.mark.parametrize("text", ["x" * 10**6, "a <|im_end|> " * 10**5])
def test_text_that_can_never_fit_is_refused_without_being_encoded(
    tokenizer: ChatTokenizer, text: str
) -> None:
    error = in_process(read_completion, completion(text), Handling(context(tokenizer).facts, ROOM))
    assert (error.status, error.param, error.code) == (400, "prompt", "context_length_exceeded")
    least = int(error.message.split("at least ")[1].split()[0])
    assert ROOM < least <= len(tokenizer.encode_raw(text))


def test_a_worker_that_dies_fails_its_body_alone(run: Run) -> None:
    long = chat(messages=[{"role": "user", "content": "a<|im_end|>" * 300_000}])

    async def use(workers: Workers) -> None:
        await in_worker(workers, read_chat, chat())
        [child] = children()
        idle = child.cpu_times().user
        failing = asyncio.create_task(in_worker(workers, read_chat, long))
        await asyncio.to_thread(eventually, lambda: child.cpu_times().user > idle + 0.1)
        child.kill()
        error = await failing
        assert (error.status, error.code) == (500, "internal_error")
        [ask, _] = await workers.run(Job(read_chat, chat(), ROOM), nothing_kept)
        assert ask.n == 1
        for child in children():  # idle ones as well
            child.kill()
            child.wait()
        await workers.run(Job(read_chat, chat(), ROOM), nothing_kept)

    run(use)


def test_only_so_many_bodies_wait(run: Run) -> None:
    async def use(workers: Workers) -> list[Any]:
        work = [in_worker(workers, read_chat, chat()) for _ in range(5)]
        return await asyncio.gather(*work)

    results = run(use)
    refused = [result for result in results if isinstance(result, ApiError)]
    assert len(refused) == 2
    assert {(error.status, error.code) for error in refused} == {(503, "queue_full")}
    assert all("Retry-After" in error.headers for error in refused)


def test_who_no_longer_waits_gives_the_turn_back(run: Run) -> None:
    body = wrong(prompt="hello there " * 600_000)  # many seconds

    async def use(workers: Workers) -> None:
        await in_worker(workers, read_chat, chat())
        gone = asyncio.create_task(in_worker(workers, tokenize, body))
        waits = asyncio.create_task(in_worker(workers, read_chat, chat()))
        await asyncio.sleep(0.1)
        before = [child.pid for child in children()]
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert isinstance(await waits, tuple)
        assert [child.pid for child in children()] != before

    run(use)


def test_closing_ends_the_processes_whatever_they_do(tokenizer: ChatTokenizer) -> None:
    before = children()

    def started() -> list[psutil.Process]:
        return [child for child in children() if child not in before]

    async def main() -> list[psutil.Process]:
        workers = Workers(context(tokenizer).facts)
        busy = asyncio.create_task(in_worker(workers, tokenize, wrong(prompt="a b " * 1_500_000)))
        await asyncio.to_thread(eventually, started)
        await asyncio.sleep(0.5)
        found = started()
        workers.close()
        assert (await busy).status == 500
        return found

    found = asyncio.run(main())
    assert found
    assert psutil.wait_procs(found, timeout=60)[1] == []


SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path
from dflash_serve.server.doors.tokenize_text import tokenize
from dflash_serve.server.handling import Facts, nothing_kept
from dflash_serve.server.worker import Job
from dflash_serve.server.workers import Workers
from dflash_serve.engine.types import SamplingParams
from dflash_serve.text.parsers import table
from dflash_serve.text.tokenizer import ChatTokenizer

tokenizer = ChatTokenizer.load(Path(sys.argv[1]))
markup = table.detect(tokenizer.template, tokenizer.added_tokens)
facts = Facts("m", 512, 512, SamplingParams(), None, tokenizer, markup, None)

async def main():
    workers = Workers(facts)
    print(await workers.run(Job(tokenize, b'{"prompt": "hi"}', 512), nothing_kept), flush=True)
    await workers.run(Job(tokenize, json.dumps({"prompt": "a b " * 1000000}).encode(), 512),
                      nothing_kept)

asyncio.run(main())
"""


def test_a_program_without_a_main_guard_and_its_sudden_end(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT, encoding="utf-8")
    paths = [os.environ.get("PYTHONPATH"), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    program = psutil.Popen(
        [sys.executable, str(script), str(tokenizer_dir)],
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        assert json.loads(program.stdout.readline())["count"] > 0
        [worker] = program.children()
        program.kill()
        assert program.wait(60) == -signal.SIGKILL
        assert psutil.wait_procs([worker], timeout=60)[1] == []
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            program.kill()
        program.stdout.close()
