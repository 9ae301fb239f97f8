"""What all wire types share: strictness, the neutral-value rule, usage. No behaviour."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


class RequestModel(BaseModel):
    """Base of what clients send: no coercion, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ResponseModel(BaseModel):
    """Base of what the server sends. Fields that were not set are left out of the JSON."""

    def json_text(self) -> str:
        return self.model_dump_json(exclude_unset=True)


def only(*neutral: Any) -> BeforeValidator:
    """For parameters that the server knows but cannot honour: null and ``neutral`` pass."""
    return BeforeValidator(_refuse_unless(neutral))


def _refuse_unless(neutral: tuple[Any, ...]) -> Callable[[Any], None]:
    rule = "only " + " or ".join(map(_json_name, (*neutral, None))) + " is"

    def check(value: Any) -> None:
        # 0 == False in Python, but not in JSON
        same = (value == other and type(value) is not bool for other in neutral)
        if value is None or any(value is other for other in neutral) or any(same):
            return
        raise PydanticCustomError("unsupported_parameter", "{rule}", {"rule": rule})

    return check


def _json_name(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return repr(value).replace("'", '"')


class PromptTokensDetails(ResponseModel):
    cached_tokens: int


class CompletionTokensDetails(ResponseModel):
    """Drafted tokens that made it into the completion, and those that did not."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class CompletionUsage(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class MetaInfo(ResponseModel):
    """How speculation went. The first two are the names that DFlash's benchmark client reads."""

    spec_accept_length: float
    """Tokens per verify pass, the bonus token included."""
    spec_verify_ct: int
    """Verify passes."""
    prompt_tokens: int
    completion_tokens: int
    drafted: int
    accepted: int
    queue_time: float
    ttft: float
    """Seconds to the first token."""
    decode_time: float
    tokens_per_second: float
    """After the first token."""
    drafter: str | None
    """The one that ran at the end; null is plain decoding."""
