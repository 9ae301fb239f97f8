"""What chats and text completions share of a request -> parts of an `Ask`. Pure functions."""

from dataclasses import dataclass

from dflash_serve.engine.types import LogitRules, SamplingParams
from dflash_serve.server import intake
from dflash_serve.server.ask import FormatKind, OutputFormat
from dflash_serve.server.errors import ApiError, invalid
from dflash_serve.server.handling import Facts
from dflash_serve.server.protocol.options import AnswerOptions, StreamOptions
from dflash_serve.server.protocol.tools import ResponseFormat


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the client wants to get the answer: what a route reads of a request beside its `Ask`."""

    stream: bool
    usage: bool
    continuous_usage: bool
    meta_info: bool


def delivery(body: AnswerOptions) -> Delivery:
    options = body.stream_options or StreamOptions()
    return Delivery(
        stream=bool(body.stream),
        usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        meta_info=bool(body.return_meta_info),
    )


def sampling(body: AnswerOptions, facts: Facts) -> SamplingParams:
    return intake.sampling(
        facts,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
    )


def check_stream(body: AnswerOptions) -> None:
    """
    Raises:
        ApiError: there are options for a stream that is none.
    """
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options", "stream_options needs stream to be true")


def rules(body: AnswerOptions, facts: Facts, max_tokens: int | None) -> LogitRules:
    """
    Raises:
        ApiError: a token id is not in the vocabulary, or ``min_tokens`` is over ``max_tokens``.
    """
    least = body.min_tokens or 0
    if max_tokens is not None and least > max_tokens:
        text = f"min_tokens is {least}, but max_tokens is {max_tokens}"
        raise invalid("min_tokens", text)
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    for token in bias:
        _check_token(token, "logit_bias", facts)
    return LogitRules(
        bias=tuple((token, value) for token, value in bias.items() if value),
        presence=body.presence_penalty or 0.0,
        frequency=body.frequency_penalty or 0.0,
        repetition=body.repetition_penalty or 1.0,
        min_tokens=least,
    )


def stop_tokens(body: AnswerOptions, facts: Facts) -> frozenset[int]:
    """
    Raises:
        ApiError: a token id is not in the vocabulary.
    """
    for token in body.stop_token_ids or ():
        _check_token(token, "stop_token_ids", facts)
    return frozenset(body.stop_token_ids or ())


def output_format(body: AnswerOptions) -> OutputFormat | None:
    """
    Raises:
        ApiError: there is more than one format, or one without what it needs.
    """
    given = [
        OutputFormat(kind, value, param)
        for kind, value, param in (
            (FormatKind.REGEX, body.regex, "regex"),
            (FormatKind.CHOICE, tuple(body.choice or ()), "choice"),
            (FormatKind.GRAMMAR, body.grammar, "grammar"),
        )
        if value
    ]
    if body.response_format is not None and body.response_format.type != "text":
        given.append(_json_format(body.response_format))
    if len(given) > 1:
        names = " and ".join(f"`{form.param}`" for form in given)
        text = f"The answer can have one format: {names} exclude each other"
        raise invalid(given[-1].param, text)
    return given[0] if given else None


def _json_format(wanted: ResponseFormat) -> OutputFormat:
    if wanted.type == "json_object":
        return OutputFormat(FormatKind.JSON_OBJECT)
    where = "response_format.json_schema"
    if wanted.json_schema is None:
        text = f"Missing required parameter: '{where}'"
        raise ApiError(400, text, param=where, code="missing_required_parameter")
    schema = wanted.json_schema.schema_
    if schema is None:
        return OutputFormat(FormatKind.JSON_OBJECT)
    strict = bool(wanted.json_schema.strict)
    return OutputFormat(FormatKind.JSON_SCHEMA, schema, f"{where}.schema", strict)


def _check_token(token: int, param: str, facts: Facts) -> None:
    size = facts.vocab_size
    if token >= size:
        text = f"Invalid '{param}': token ids must be 0 to {size - 1}, but one is {token}"
        raise invalid(param, text)
