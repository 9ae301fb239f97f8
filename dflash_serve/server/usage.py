"""What requests cost, as OpenAI's usage and as this server's own figures. Pure functions."""

from collections.abc import Sequence

from dflash_serve.engine.types import Usage
from dflash_serve.server.protocol.common import (
    CompletionTokensDetails,
    CompletionUsage,
    MetaInfo,
    PromptTokensDetails,
)


def wire_usage(usages: Sequence[Usage], reasoning_tokens: int = 0) -> CompletionUsage:
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
            reasoning_tokens=reasoning_tokens,
            accepted_prediction_tokens=accepted,
            rejected_prediction_tokens=drafted - accepted,
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
