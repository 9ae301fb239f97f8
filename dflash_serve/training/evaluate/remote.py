"""Asks any OpenAI-compatible server over HTTP. What a server does not tell stays unknown.

Knows no tokens and no models.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx

from dflash_serve.measure.endpoint import FAILED, base_url, first_model, headers, reason
from dflash_serve.measure.errors import DataError
from dflash_serve.training.evaluate.prompts import Conversation, Message
from dflash_serve.training.evaluate.records import Decoded, Failure, Response, ResponseFile, Take
from dflash_serve.training.evaluate.settings import EvaluateSettings

T = TypeVar("T")

_WARM_UP_TOKENS = 64
_WARM_UP: list[Message] = [{"role": "user", "content": "Tell me about the sea in a few words."}]

_WAVE = 8  # conversations per client that one server is asked before the other


class RemoteRun:
    """A server that answers an evaluation's questions, and a plain one if there is one."""

    block: int | None = None
    exact = False  # a server's arithmetic is its own: differences are reported, no more

    def __init__(self, settings: EvaluateSettings) -> None:
        assert settings.url is not None
        self._settings = settings
        self._server = self._ready(settings.url)
        self._plain = self._ready(settings.plain_url) if settings.plain_url else None
        self.name = self._server.model
        self.fixed = {
            "url": self._server.base_url,
            "model": self._server.model,
            "plain_url": self._plain.base_url if self._plain else None,
            **settings.decoding(),
            "concurrency": settings.concurrency,
        }
        self.settings = {**self.fixed, "meta_info": self._server.meta_info}

    def answer(self, conversations: Sequence[Conversation], file: ResponseFile, take: Take) -> None:
        """Answer what the file does not hold yet; both servers in turns, some at a time.

        The plain one comes second: its prompts hold the other's replies.
        """
        at_once = self._settings.concurrency
        server, plain, wave = self._server, self._plain, _WAVE * at_once

        async def converse(client: httpx.AsyncClient, one: Conversation) -> None:
            await _conversation(client, server, one, take)

        async def retell(client: httpx.AsyncClient, told: tuple[list[Message], Response]) -> None:
            assert plain is not None
            take(await _again(client, plain, *told))

        for start in range(0, len(conversations), wave):
            part = conversations[start : start + wave]
            left = [one for one in part if not file.done(one)]
            asyncio.run(_each(server, left, at_once, converse))
            if plain is not None:
                asyncio.run(_each(plain, _without_plain(part, file), at_once, retell))

    @property
    def notes(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """Nothing is held open between answers."""

    def _ready(self, url: str) -> "Endpoint":
        base, settings = base_url(url), self._settings
        name = settings.model or first_model(base, settings.api_key)
        fields: dict[str, Any] = {
            "max_tokens": settings.max_new,
            "temperature": settings.temperature,
            **_sampling_fields(settings),
            **_thinking_fields(settings.thinking),
        }
        endpoint = Endpoint(base, name, fields, settings.timeout, settings.api_key)
        return asyncio.run(warmed_up(endpoint, settings.concurrency))


def _without_plain(
    conversations: Sequence[Conversation], file: ResponseFile
) -> list[tuple[list[Message], Response]]:
    """Prompts of the turns that have no plain answer yet, with the response that they had."""
    return [
        (one.messages([earlier.text for earlier in held[:turn]]), response)
        for one in conversations
        for held in [file.of(one)]
        for turn, response in enumerate(held)
        if response.plain is None
    ]


def _sampling_fields(settings: EvaluateSettings) -> dict[str, Any]:
    """Only what is not neutral: not every server knows every field."""
    if settings.temperature == 0:
        return {}
    fields: dict[str, Any] = {"seed": settings.seed}
    if settings.top_p < 1:
        fields["top_p"] = settings.top_p
    if settings.top_k > 0:
        fields["top_k"] = settings.top_k
    return fields


def _thinking_fields(thinking: str) -> dict[str, Any]:
    """A server's template is not known here, so a level goes under each name in use."""
    if thinking == "default":
        return {}
    if thinking in {"on", "off"}:
        return {"chat_template_kwargs": {"enable_thinking": thinking == "on"}}
    levels = {"reasoning_effort": thinking, "reasoning_strength": thinking}
    return {"chat_template_kwargs": {"enable_thinking": True, **levels}}


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
            raise DataError(f"{endpoint.base_url} refuses requests: {reason(error)}") from error
        except FAILED as error:
            why = reason(error)
            raise DataError(f"{endpoint.base_url} cannot be reached: {why}") from error
    return endpoint


async def _each(
    endpoint: Endpoint,
    asked: Iterable[T],
    concurrency: int,
    ask: Callable[[httpx.AsyncClient, T], Awaitable[None]],
) -> None:
    """``ask`` for each, at most ``concurrency`` at once."""
    waiting = iter(asked)

    async def work(client: httpx.AsyncClient) -> None:
        for one in waiting:
            await ask(client, one)

    async with _client(endpoint) as client:
        await asyncio.gather(*(work(client) for _ in range(concurrency)))


async def _conversation(
    client: httpx.AsyncClient, endpoint: Endpoint, one: Conversation, take: Take
) -> None:
    """Replies are fed back into later turns; a turn that fails ends its conversation."""
    replies: list[str] = []
    for turn in range(len(one.turns)):
        try:
            text, decoded = await _ask(client, endpoint, one.messages(replies))
        except FAILED as error:
            take(Failure(one.dataset, one.row, turn, reason(error)))
            return
        replies.append(text)
        take(Response(one.dataset, one.row, one.digest, turn, text, decoded))


async def _again(
    client: httpx.AsyncClient, endpoint: Endpoint, messages: Sequence[Message], one: Response
) -> Response | Failure:
    try:
        text, plain = await _ask(client, endpoint, messages)
    except FAILED as error:
        return Failure(one.dataset, one.row, one.turn, f"plain: {reason(error)}")
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
        headers=headers(endpoint.api_key), timeout=endpoint.timeout, limits=limits
    )
