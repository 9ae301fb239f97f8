"""Wire request -> engine requests; deltas and usage -> wire responses. Pure functions.

Knows nothing of tokenizers, engines or sockets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dflash_serve.engine.types import EngineRequest, SamplingParams, Usage
from dflash_serve.server.context import ModelCard
from dflash_serve.server.errors import ApiError, shown
from dflash_serve.server.protocol.chat import (
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    Message,
)
from dflash_serve.server.protocol.common import (
    CompletionTokensDetails,
    CompletionUsage,
    MetaInfo,
    PromptTokensDetails,
)

_GREEDY_BELOW = 1e-3
"""Temperatures under this are greedy: dividing logits by them overflows half precision."""


def check(body: ChatRequest, model: ModelCard) -> None:
    """What a wire type cannot see: the model's name and limits, and fields that exclude others.

    Raises:
        ApiError: naming the field, the value and the limit.
    """
    if body.model != model.id:
        raise ApiError(
            404,
            f"The model {shown(body.model)} does not exist; this server serves {shown(model.id)}",
            param="model",
            code="model_not_found",
        )
    newer, older = body.max_completion_tokens, body.max_tokens
    if newer is not None and older is not None and newer != older:
        message = f"max_tokens is {older} but max_completion_tokens is {newer}; give only one"
        raise ApiError(400, message, param="max_tokens", code="invalid_value")
    for name, value in (("max_completion_tokens", newer), ("max_tokens", older)):
        if value is not None and value > model.max_context:
            message = f"{name} is {value}, but the model's context holds {model.max_context} tokens"
            raise ApiError(400, message, param=name, code="invalid_value")
    if body.stream_options is not None and not body.stream:
        message = "stream_options needs stream to be true"
        raise ApiError(400, message, param="stream_options", code="invalid_value")


def template_messages(body: ChatRequest) -> list[dict[str, str]]:
    """The messages as chat templates read them: text parts joined by line ends."""
    return [_template_message(message) for message in body.messages]


def engine_requests(
    body: ChatRequest, request_id: str, prompt: tuple[int, ...], model: ModelCard, seed: int
) -> list[EngineRequest]:
    """One request per choice; choice i draws with ``seed`` + i.

    Raises:
        ApiError: the prompt leaves no room in the model's context.
    """
    room = model.max_context - len(prompt)
    if room < 1:
        raise ApiError(
            400,
            f"The messages are {len(prompt)} tokens long, but the model's context holds "
            f"{model.max_context} tokens, prompt and completion together",
            param="messages",
            code="context_length_exceeded",
        )
    wanted = body.max_completion_tokens or body.max_tokens or room
    sampling = _sampling(body, model.sampling)
    return [
        EngineRequest(
            id=f"{request_id}-{index}",
            prompt=prompt,
            max_tokens=min(wanted, room),
            sampling=replace(sampling, seed=_wrap(seed + index)),
            stop_tokens=model.stop_tokens,
        )
        for index in range(body.n or 1)
    ]


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all chunks of one response repeat."""

    id: str
    created: int
    model: str
    fingerprint: str

    def chunk(self, choices: list[ChunkChoice], **extra: Any) -> ChatCompletionChunk:
        """``extra`` is ``usage`` or ``meta_info``, or nothing."""
        return ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            **extra,
        )

    def completion(self, choices: list[Choice], **extra: Any) -> ChatCompletion:
        return ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            system_fingerprint=self.fingerprint,
            choices=choices,
            **extra,
        )


def role_delta(index: int) -> ChunkChoice:
    return _chunk_choice(index, Delta(role="assistant", content=""), None)


def text_delta(index: int, text: str) -> ChunkChoice:
    return _chunk_choice(index, Delta(content=text), None)


def finish_delta(index: int, finish: FinishReason) -> ChunkChoice:
    return _chunk_choice(index, Delta(), finish)


def choice(index: int, text: str, finish: FinishReason) -> Choice:
    message = AssistantMessage(role="assistant", content=text, refusal=None)
    return Choice(index=index, message=message, logprobs=None, finish_reason=finish)


def wire_usage(usages: Sequence[Usage]) -> CompletionUsage:
    """One request's usage over its choices. The prompt counts once, as it does at OpenAI."""
    prompt = max((usage.prompt_tokens for usage in usages), default=0)
    completion = sum(usage.completion_tokens for usage in usages)
    accepted = sum(usage.accepted for usage in usages)
    drafted = sum(usage.drafted for usage in usages)
    return CompletionUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=0),
        completion_tokens_details=CompletionTokensDetails(
            accepted_prediction_tokens=accepted, rejected_prediction_tokens=drafted - accepted
        ),
    )


def meta_info(usages: Sequence[Usage], drafter: str | None) -> MetaInfo:
    """How speculation went over all choices of one request, which run side by side.

    ``drafter`` is the name of the one that ran at its end.
    """
    rounds = sum(usage.rounds for usage in usages)
    completion = sum(usage.completion_tokens for usage in usages)
    committed = sum(usage.tokens_per_round * usage.rounds for usage in usages)
    decode_time = max((usage.decode_time for usage in usages), default=0.0)
    after_first = sum(max(0, usage.completion_tokens - 1) for usage in usages)
    return MetaInfo(
        spec_accept_length=committed / rounds if rounds else 0.0,
        spec_verify_ct=rounds,
        prompt_tokens=max((usage.prompt_tokens for usage in usages), default=0),
        completion_tokens=completion,
        drafted=sum(usage.drafted for usage in usages),
        accepted=sum(usage.accepted for usage in usages),
        queue_time=min((usage.queue_time for usage in usages), default=0.0),
        ttft=min((usage.time_to_first_token for usage in usages), default=0.0),
        decode_time=decode_time,
        tokens_per_second=after_first / decode_time if decode_time > 0 else 0.0,
        drafter=drafter,
    )


def truncated(usage: Usage, tokens: int) -> Usage:
    """``usage`` of a choice whose text ended after ``tokens``: drafts beyond count as rejected."""
    dropped = usage.completion_tokens - tokens
    return replace(usage, completion_tokens=tokens, accepted=max(0, usage.accepted - dropped))


def _template_message(message: Message) -> dict[str, str]:
    content = message.content or ""
    if not isinstance(content, str):
        content = "\n".join(part.text for part in content)
    # templates know no role "developer"; it is OpenAI's newer name for "system"
    role = "system" if message.role == "developer" else message.role
    optional = {
        "name": message.name,
        "tool_call_id": message.tool_call_id,
        "reasoning_content": message.reasoning_content,
    }
    given = {key: value for key, value in optional.items() if value is not None}
    return {"role": role, "content": content, **given}


def _sampling(body: ChatRequest, defaults: SamplingParams) -> SamplingParams:
    given = {
        name: value
        for name in ("temperature", "top_p", "top_k", "min_p")
        if (value := getattr(body, name)) is not None
    }
    sampling = replace(defaults, **given)
    return replace(
        sampling,
        temperature=0.0 if sampling.temperature < _GREEDY_BELOW else sampling.temperature,
        top_k=max(0, sampling.top_k),
    )


def _wrap(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63


def _chunk_choice(
    index: int, delta: Delta, finish: Literal["stop", "length"] | None
) -> ChunkChoice:
    return ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=finish)
