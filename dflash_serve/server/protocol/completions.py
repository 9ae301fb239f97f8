"""Wire types of ``POST /v1/completions``, request and response. No behaviour.

``null`` is absent everywhere. Known parameters that cannot be honoured take their neutral value
only; unknown ones are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from dflash_serve.server.protocol.common import (
    CompletionUsage,
    Int,
    MetaInfo,
    ResponseModel,
    only,
)
from dflash_serve.server.protocol.options import MAX_CHOICES, AnswerOptions


def _prompt_tag(prompt: Any) -> str | None:
    if isinstance(prompt, str):
        return "<text>"
    if not isinstance(prompt, list):
        return None
    first = prompt[0] if prompt else ""
    if isinstance(first, list):
        return "<lists>"
    return "<texts>" if isinstance(first, str) else "<tokens>"


Tokens = Annotated[list[Annotated[Int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
_Several = Field(min_length=1, max_length=MAX_CHOICES)
Prompt = Annotated[
    Annotated[str, Tag("<text>")]
    | Annotated[list[str], Tag("<texts>"), _Several]
    | Annotated[Tokens, Tag("<tokens>")]
    | Annotated[list[Tokens], Tag("<lists>"), _Several],
    Discriminator(
        _prompt_tag,
        custom_error_type="prompt_type",
        custom_error_message=(
            "Input should be a string, a list of strings, a list of token ids or a list of such "
            "lists"
        ),
    ),
]


class CompletionRequest(AnswerOptions):
    model: str
    prompt: Prompt

    max_tokens: Annotated[Int | None, Field(ge=0)] = None
    logprobs: Annotated[Int | None, Field(ge=0, le=20)] = None
    echo: bool | None = None
    best_of: Annotated[Int | None, Field(ge=1)] = None

    # known, not supported: the neutral value only
    add_special_tokens: Annotated[
        None, only(True, what="Leaving out the tokens that the model's prompts begin with")
    ] = None
    suffix: Annotated[None, only("", what="Inserting text before a suffix")] = None


class CompletionLogprobs(ResponseModel):
    """One entry per token. The first token of a prompt has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(ResponseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(ResponseModel):
    """A whole answer, or one chunk of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None
    meta_info: MetaInfo | None = None
