"""Closed-loop load on an OpenAI chat endpoint: each client sends, reads its stream, sends again.

Knows HTTP alone, so that any server can be measured with it.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from dflash_serve.measure.endpoint import headers
from dflash_serve.measure.shapes import Chat

_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server under test. ``meta_info``: ask for z-lab's drafting figures, which only some know.

    ``base_url`` ends in /v1.
    """

    name: str
    base_url: str
    model: str
    api_key: str | None = None
    meta_info: bool = False


@dataclass(slots=True)
class Sample:
    """One request. Seconds since it was sent; ``error`` excludes it from all figures but counts.

    counted: where ``tokens`` comes from: the stream's usage, or its chunks with text, which
    undercounts servers that send several tokens at once.
    """

    first: float = 0.0
    total: float = 0.0
    tokens: int = 0
    counted: str = "chunks"
    accept_length: float | None = None
    verify_passes: int | None = None
    error: str | None = None

    @property
    def rate(self) -> float:
        """Tokens per second after the first."""
        seconds = self.total - self.first
        return (self.tokens - 1) / seconds if seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class LoadRun:
    """All samples of one run and its wall seconds."""

    samples: list[Sample]
    wall: float

    @property
    def good(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.error is None]

    @property
    def total_rate(self) -> float:
        """Completion tokens of all requests per second of wall clock."""
        return sum(sample.tokens for sample in self.good) / self.wall if self.wall else 0.0


def run_load(endpoint: Endpoint, chats: Sequence[Chat], clients: int, max_tokens: int) -> LoadRun:
    """Send every prompt once, at most ``clients`` at a time."""
    return asyncio.run(_run(endpoint, chats, clients, max_tokens))


async def _run(endpoint: Endpoint, chats: Sequence[Chat], clients: int, max_tokens: int) -> LoadRun:
    waiting = iter(chats)
    samples: list[Sample] = []
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(
        headers=headers(endpoint.api_key), timeout=_TIMEOUT, limits=limits
    ) as client:
        started = time.perf_counter()
        await asyncio.gather(
            *(_client(client, endpoint, waiting, max_tokens, samples) for _ in range(clients))
        )
        return LoadRun(samples, time.perf_counter() - started)


async def _client(
    client: httpx.AsyncClient,
    endpoint: Endpoint,
    waiting: Iterator[Chat],
    max_tokens: int,
    samples: list[Sample],
) -> None:
    for chat in waiting:
        sample = Sample()
        samples.append(sample)
        try:
            await _request(client, endpoint, chat, max_tokens, sample)
        except (httpx.HTTPError, ValueError) as error:
            sample.error = f"{type(error).__name__}: {error}"[:300]


async def _request(
    client: httpx.AsyncClient, endpoint: Endpoint, chat: Chat, max_tokens: int, sample: Sample
) -> None:
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [dict(message) for message in chat.messages],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if endpoint.meta_info:
        body["return_meta_info"] = True
    started = time.perf_counter()
    url = f"{endpoint.base_url}/chat/completions"
    async with client.stream("POST", url, json=body) as reply:
        if reply.status_code != httpx.codes.OK:
            text = (await reply.aread()).decode("utf-8", "replace")
            raise ValueError(f"status {reply.status_code}: {' '.join(text.split())}")
        async for line in reply.aiter_lines():
            if line.startswith("data:") and line[5:].strip() != "[DONE]":
                _read(json.loads(line[5:]), sample, time.perf_counter() - started)
    sample.total = time.perf_counter() - started
    if sample.tokens == 0:
        raise ValueError("the stream ended without a token")


def _read(event: dict[str, Any], sample: Sample, now: float) -> None:
    """Take one event: text, usage and meta_info may come in any of them."""
    if "error" in event:
        raise ValueError(f"error in the stream: {event['error']}")
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
            sample.first = sample.first or now
            sample.tokens += sample.counted == "chunks"
    usage = event.get("usage")
    if usage and usage.get("completion_tokens") is not None:
        sample.tokens, sample.counted = int(usage["completion_tokens"]), "usage"
        sample.first = sample.first or now
    meta = event.get("meta_info")
    if meta:
        sample.accept_length = meta.get("spec_accept_length")
        sample.verify_passes = meta.get("spec_verify_ct")
