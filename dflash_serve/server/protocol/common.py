"""What all wire types share: strictness, numbers, the neutral-value rule, usage. No behaviour."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError


class RequestModel(BaseModel):
    """Base of what clients send: no coercion, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ResponseModel(BaseModel):
    """Base of what the server sends. Fields that were not set are left out of the JSON."""

    def json_text(self) -> str:
        return self.model_dump_json(exclude_unset=True)


def _whole(value: Any) -> Any:
    # JSON has one kind of number: 5.0 is 5
    return int(value) if isinstance(value, float) and value.is_integer() else value


Int = Annotated[int, BeforeValidator(_whole)]
"""An integer, which clients may write as ``5.0``."""


def unsupported(sentence: str) -> PydanticCustomError:
    """A refusal in ``sentence``, where ``<field>`` becomes the field's name."""
    return PydanticCustomError("unsupported_parameter", "{sentence}", {"sentence": sentence})


def only(*neutral: Any, what: str | None = None) -> BeforeValidator:
    """For parameters that the server knows but cannot honour: null and ``neutral`` pass.

    ``what`` names the missing ability for a reader of the refusal: "Audio output".
    """
    missing = f"{what} is not supported by this server." if what else "This is not supported here."
    ways = [f"set `<field>` to {_json_name(value)}" for value in neutral]
    advice = " or ".join(["Remove `<field>` from the request", *ways[:1]])
    return BeforeValidator(_refuse_unless(neutral, f"{missing} {advice}."))


def _refuse_unless(neutral: tuple[Any, ...], sentence: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        # 0 == False in Python, but not in JSON
        same = (value == other and type(value) is not bool for other in neutral)
        if value is None or any(value is other for other in neutral) or any(same):
            return
        raise unsupported(sentence)

    return check


def _json_name(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return repr(value).replace("'", '"')


class PromptTokensDetails(ResponseModel):
    cached_tokens: int


class CompletionTokensDetails(ResponseModel):
    """Tokens of the reasoning; drafted tokens that made it into the completion or did not."""

    reasoning_tokens: int
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
