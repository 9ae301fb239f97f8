"""200 random requests, a third of them abandoned, some malformed: no slot leaks, texts stay."""

import asyncio
import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.server import all_slots_free, ask, body, wait

COUNT, AT_ONCE = 200, 40
WORDS = ["hello", "world", "fox", "quick", "żółć", "🙂", "<|im_end|>", "\n", "again"]
MALFORMED: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe{}",
    b'{"model": "tiny"}',
    b'{"model": "tiny", "messages": [], "max_tokens": 4}',
    json.dumps(body(temperature=9)).encode(),
    json.dumps(body(max_tokens=0)).encode(),
    json.dumps(body(stop=[""])).encode(),
    json.dumps(body(tools=[{"type": "function"}])).encode(),
    json.dumps(body("word " * 2000)).encode(),
    b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
]


@dataclass
class Seen:
    """What the requests met: answers by what was asked, statuses of the malformed ones."""

    texts: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    refused: list[int] = field(default_factory=list)
    completed: int = 0
    abandoned: int = 0


def random_body(rng: random.Random) -> dict[str, Any]:
    asked = body(
        " ".join(rng.choices(WORDS, k=rng.choice([1, 3, 30]))),
        max_tokens=rng.choice([1, 2, 5, 9, 20]),
        temperature=rng.choice([0, 0, 0.7, 1.5]),
        seed=rng.randrange(1000),
        n=rng.choice([1, 1, 1, 2]),
    )
    if rng.random() < 0.3:
        asked["stop"] = rng.choices(["e", "he", "o w", " ", "qu"], k=2)
    return asked


def check_usage(asked: dict[str, Any], usage: dict[str, Any]) -> None:
    assert 1 <= usage["completion_tokens"] <= asked["max_tokens"] * asked["n"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def complete(client: httpx.AsyncClient, asked: dict[str, Any]) -> str:
    answer = await client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    check_usage(asked, content["usage"])
    assert all(choice["finish_reason"] in ("stop", "length") for choice in content["choices"])
    return json.dumps([choice["message"]["content"] for choice in content["choices"]])


async def stream(client: httpx.AsyncClient, asked: dict[str, Any]) -> str:
    """The texts of a whole stream, whose shape is checked on the way."""
    asked = asked | {"stream": True, "stream_options": {"include_usage": True}}
    texts, reasons, events = [""] * asked["n"], [], []
    async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            events += [line.removeprefix("data: ")] if line.startswith("data: ") else []
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    check_usage(asked, chunks.pop()["usage"])
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
            reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert len(reasons) == asked["n"]
    return json.dumps(texts)


async def abandon(url: str, asked: dict[str, Any], rng: random.Random) -> None:
    """Send a request, or a part of it, and cut the connection at a random moment."""
    content = json.dumps(asked | {"stream": rng.random() < 0.6, "max_tokens": 200}).encode()
    host = httpx.URL(url)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(host.host, host.port)
    message = head.encode() + content
    cut = rng.randrange(len(message)) if rng.random() < 0.2 else len(message)
    writer.write(message[:cut])
    await writer.drain()
    if rng.random() < 0.5 and cut == len(message):
        await reader.read(rng.choice([1, 200, 900]))
    else:
        await asyncio.sleep(rng.random() * 0.1)
    if rng.random() < 0.5:
        writer.transport.abort()  # a reset instead of a close
    else:
        writer.close()


async def storm(url: str) -> Seen:
    rng, seen = random.Random(11), Seen()
    pool = [random_body(rng) for _ in range(40)]
    gate = asyncio.Semaphore(AT_ONCE)
    limits = httpx.Limits(max_connections=AT_ONCE)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        own = random.Random(number)
        which = own.randrange(len(pool))
        fate = own.random()
        async with gate:
            if fate < 0.33:
                await abandon(url, pool[which], own)
                seen.abandoned += 1
            elif fate < 0.45:
                wrong = own.choice(MALFORMED)
                headers = {"Content-Type": "application/json"}
                answer = await client.post("/v1/chat/completions", content=wrong, headers=headers)
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                seen.refused.append(answer.status_code)
            else:
                read = stream if own.random() < 0.5 else complete
                seen.texts[which].add(await read(client, pool[which]))
                seen.completed += 1

    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await asyncio.gather(*(one(client, number) for number in range(COUNT)))
    return seen


def test_200_random_requests_leave_the_server_as_it_was(url: str) -> None:
    """Every undisturbed request ends properly, with the same text each time that it is asked."""
    before = ask(url, max_tokens=40)
    seen = asyncio.run(storm(url))
    wait(lambda: all_slots_free(url), 60)
    assert ask(url, max_tokens=40) == before
    assert seen.abandoned > COUNT // 4
    assert seen.completed > COUNT // 3
    assert set(seen.refused) == {400}
    assert sum(len(texts) for texts in seen.texts.values()) == len(seen.texts)
    assert len(set().union(*seen.texts.values())) > len(seen.texts) // 2
