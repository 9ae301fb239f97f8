"""A text completion's request -> `Ask`, one per prompt. Knows nothing of engines or sockets."""

from dataclasses import replace

from dflash_serve.server import intake
from dflash_serve.server.ask import Ask, RawPrompt
from dflash_serve.server.doors import options
from dflash_serve.server.errors import ApiError, invalid
from dflash_serve.server.handling import Facts, Handling
from dflash_serve.server.prompts import encoded
from dflash_serve.server.protocol.completions import CompletionRequest
from dflash_serve.server.protocol.options import MAX_CHOICES

_MAX_TOKENS = 16
"""OpenAI's default in this door."""


def read_completion(data: bytes, handling: Handling) -> tuple[list[Ask], options.Delivery]:
    """The body as one `Ask` per prompt, which is encoded.

    Raises:
        ApiError: naming the field, the value and the limit.
    """
    body = intake.parse(data, CompletionRequest)
    asks = completion_asks(body, handling.facts)
    return [encoded(ask, handling.facts, handling.room) for ask in asks], options.delivery(body)


def completion_asks(body: CompletionRequest, facts: Facts) -> list[Ask]:
    """What the request asks of the model. Choices of later prompts draw with later seeds.

    Raises:
        ApiError: naming the field, the value and the limit.
    """
    intake.check_model(body.model, facts)
    options.check_stream(body)
    prompts, n = _prompts(body), body.n or 1
    _check_choices(body, len(prompts), n)
    max_tokens = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise invalid(
            "max_tokens", "max_tokens is 0, which needs echo to be true: nothing would be answered"
        )
    first = Ask(
        prompt=prompts[0],
        sampling=options.sampling(body, facts),
        n=n,
        max_tokens=max_tokens,
        rules=options.rules(body, facts, max_tokens),
        stop=tuple(body.stop or ()),
        stop_tokens=options.stop_tokens(body, facts),
        ignore_end=bool(body.ignore_eos),
        include_stop=bool(body.include_stop_str_in_output),
        logprobs=body.logprobs,
        echo=bool(body.echo),
        format=options.output_format(body),
    )
    drawn = first.sampling
    return [
        replace(first, prompt=prompt, sampling=replace(drawn, seed=drawn.seed + at * n))
        for at, prompt in enumerate(prompts)
    ]


def _prompts(body: CompletionRequest) -> list[RawPrompt]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [RawPrompt(prompt)]
    if isinstance(prompt[0], int):
        return [_one(prompt, "prompt")]
    return [_one(part, f"prompt.{at}") for at, part in enumerate(prompt)]


def _one(prompt: object, param: str) -> RawPrompt:
    if isinstance(prompt, str):
        return RawPrompt(prompt, param=param)
    assert isinstance(prompt, list)
    return RawPrompt(tokens=tuple(prompt), param=param)


def _check_choices(body: CompletionRequest, prompts: int, n: int) -> None:
    if body.best_of not in (None, n):
        raise ApiError(
            400,
            f"Choosing the best of several answers is not supported by this server: best_of is "
            f"{body.best_of} and n is {n}. Remove `best_of` from the request.",
            param="best_of",
            code="unsupported_parameter",
        )
    if prompts * n > MAX_CHOICES:
        raise invalid(
            "n",
            f"{prompts} prompts with n = {n} are {prompts * n} choices, but a request can have "
            f"at most {MAX_CHOICES}",
        )
