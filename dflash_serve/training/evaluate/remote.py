"""Asks any OpenAI-compatible server over HTTP. What a server does not tell stays unknown.

Knows no tokens and no models.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from dflash_serve.training.data import DataError
from dflash_serve.training.evaluate.prompts import Conversation, Message
from dflash_serve.training.evaluate.records import Decoded, Failure, Response

_WARM_UP_TOKENS = 64
_WARM_UP: list[Message] = [{"role": "user", "content": "Tell me about the sea in a few words."}]
_FAILED = (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError)

Take = Callable[[Response | Failure], None]
"""Gets every answer as it comes."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and a model on it. ``base_url`` ends in /v1; ``timeout`` is in seconds.

    ``fields`` go into every request's body. ``meta_info``: ask for the figures of drafting.
    """

    base_url: str
    model: str
    fields: Mapping[str, Any]
    timeout: float
    api_key: str | None = field(default=None, repr=False)
    meta_info: bool = True


def base_url(url: str) -> str:
    """With /v1 at its end.

    Raises:
        DataError: no URL.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"the URL is {url!r}, but must start with http:// or https://")
    stem = url.rstrip("/")
    return stem if stem.endswith("/v1") else f"{stem}/v1"


def first_model(url: str, api_key: str | None) -> str:
    """The first id of GET /models.

    Raises:
        DataError: the server cannot be reached, or lists nothing.
    """
    try:
        reply = httpx.get(f"{url}/models", headers=_headers(api_key), timeout=30.0)
        reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except httpx.TransportError as error:
        raise DataError(f"{url} cannot be reached: {_reason(error)}") from error
    except _FAILED as error:
        raise DataError(f"{url}/models names no model ({_reason(error)}): give --model") from error


async def warmed_up(endpoint: Endpoint, requests: int) -> Endpoint:
    """The endpoint after some short requests at once; without ``meta_info`` if it refuses that.

    Raises:
        DataError: it cannot be reached, or refuses a plain request.
    """
    short = replace(endpoint, fields={**endpoint.fields, "max_tokens": _WARM_UP_TOKENS})
    async with _client(endpoint) as client:
        try:
            await asyncio.gather(*(_ask(client, short, _WARM_UP) for _ in range(requests)))
        except httpx.HTTPStatusError as error:
            if endpoint.meta_info and error.response.status_code in (400, 422):
                return await warmed_up(replace(endpoint, meta_info=False), requests)
            raise DataError(f"{endpoint.base_url} refuses requests: {_reason(error)}") from error
        except _FAILED as error:
            reason = _reason(error)
            raise DataError(f"{endpoint.base_url} cannot be reached: {reason}") from error
    return endpoint


async def converse(
    endpoint: Endpoint, conversations: Sequence[Conversation], concurrency: int, take: Take
) -> None:
    """Ask every turn of every conversation, at most ``concurrency`` at once.

    Replies are fed back into later turns; a turn that fails ends its conversation.
    """
    waiting = iter(conversations)

    async def work(client: httpx.AsyncClient) -> None:
        for one in waiting:
            await _conversation(client, endpoint, one, take)

    async with _client(endpoint) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))


async def retell(
    endpoint: Endpoint,
    responses: Sequence[tuple[Sequence[Message], Response]],
    concurrency: int,
    take: Take,
) -> None:
    """Ask a plain server the same prompts; each response comes back with what that took."""
    waiting = iter(responses)

    async def work(client: httpx.AsyncClient) -> None:
        for messages, one in waiting:
            take(await _again(client, endpoint, messages, one))

    async with _client(endpoint) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))


async def _conversation(
    client: httpx.AsyncClient, endpoint: Endpoint, one: Conversation, take: Take
) -> None:
    replies: list[str] = []
    for turn in range(len(one.turns)):
        try:
            text, decoded = await _ask(client, endpoint, one.messages(replies))
        except _FAILED as error:
            take(Failure(one.dataset, one.row, turn, _reason(error)))
            return
        replies.append(text)
        take(Response(one.dataset, one.row, one.digest, turn, text, decoded))


async def _again(
    client: httpx.AsyncClient, endpoint: Endpoint, messages: Sequence[Message], one: Response
) -> Response | Failure:
    try:
        text, plain = await _ask(client, endpoint, messages)
    except _FAILED as error:
        return Failure(one.dataset, one.row, one.turn, f"plain: {_reason(error)}")
    return replace(one, plain=plain.without_rounds(), same=text == one.text)


async def _ask(
    client: httpx.AsyncClient, endpoint: Endpoint, messages: Sequence[Message]
) -> tuple[str, Decoded]:
    body = {"model": endpoint.model, "messages": list(messages), **endpoint.fields}
    if endpoint.meta_info:
        body["return_meta_info"] = True
    wall, started = time.time(), time.perf_counter()
    reply = await client.post(f"{endpoint.base_url}/chat/completions", json=body)
    span = (wall, wall + time.perf_counter() - started)
    reply.raise_for_status()
    value = reply.json()
    message = value["choices"][0]["message"]
    return message["content"] or "", _decoded(value, span)


def _decoded(value: Mapping[str, Any], span: tuple[float, float]) -> Decoded:
    """From ``usage`` and, where the server sends it, ``meta_info``."""
    meta = value.get("meta_info") or {}
    passes, length = meta.get("spec_verify_ct"), meta.get("spec_accept_length")
    if passes is None or length is None:
        passes = length = None  # half of it says nothing
    return Decoded(
        int(value["usage"]["completion_tokens"]),
        *span,
        decode_seconds=meta.get("decode_time"),
        tokens_per_round=float(length) if passes and length is not None else None,
        passes=None if passes is None else int(passes),
        drafted=meta.get("drafted"),
        accepted=meta.get("accepted"),
    )


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(
        headers=_headers(endpoint.api_key), timeout=endpoint.timeout, limits=limits
    )


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def _reason(error: Exception) -> str:
    """One line; a refusal with what the server said."""
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.HTTPStatusError):
        text = f"status {error.response.status_code}: {error.response.text}"
    if isinstance(error, httpx.TimeoutException):
        text = f"no answer in time ({type(error).__name__})"
    if isinstance(error, LookupError):
        text = f"the reply lacks {error}"
    return " ".join(text.split())[:300]
