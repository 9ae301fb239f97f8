"""An `Ask`'s prompt -> the tokens that the model reads. Blocking: it belongs off the event loop.

Knows no engines or sockets: it also runs in worker processes.
"""

import json
from array import array
from collections.abc import Sequence
from dataclasses import replace

from dflash_serve.server import thinking
from dflash_serve.server.ask import (
    Ask,
    ChatPrompt,
    EncodedPrompt,
    OutputFormat,
    RawPrompt,
    ToolMode,
)
from dflash_serve.server.errors import ApiError, invalid
from dflash_serve.server.handling import Facts
from dflash_serve.text.errors import TemplateError, TextTooLong

_FORMAT_CHARACTERS = 512 * 1024
"""Of an output format as JSON; no grammar that is made of more can be compiled."""


def encoded(ask: Ask, facts: Facts, room: int | None) -> Ask:
    """``ask`` with its prompt as tokens. ``room``: the context that they must leave room in.

    Raises:
        ApiError: the template refuses the messages, a token id is not in the vocabulary, there are
            no tokens, or too many; or the output format is too large.
    """
    prompt = ask.prompt
    if isinstance(prompt, EncodedPrompt):
        return ask
    if ask.format is not None:
        _check_format(ask.format)
    tokens = prompt_tokens(ask, facts, room)
    if room is not None:
        check_room(len(tokens), room, prompt.param)
    chat = isinstance(prompt, ChatPrompt)
    begun = chat and thinking.is_open(tokens, facts.markup, facts.tokenizer)
    echoed = _echoed(prompt, tokens, facts) if ask.echo else None
    made = EncodedPrompt(array("i", tokens), prompt.param, chat, begun, echoed)
    # tools that must not be called are no part of prompt or answer
    tools = ask.tools if ask.tools.mode is not ToolMode.NONE else replace(ask.tools, tools=())
    return replace(ask, prompt=made, tools=tools)


def prompt_tokens(ask: Ask, facts: Facts, room: int | None = None) -> Sequence[int]:
    """The prompt as the model reads it, however long it is.

    Text that cannot fit into ``room`` tokens is refused before it is encoded.

    Raises:
        ApiError: as `encoded`, but for the number of tokens.
    """
    param, size = ask.prompt.param, facts.vocab_size
    tokens = _tokens(ask, facts, room)
    if max(tokens, default=0) >= size or min(tokens, default=0) < 0:
        # of a text too: a tokenizer may know control tokens that the model has no row for
        wrong = next(token for token in tokens if not 0 <= token < size)
        text = f"Invalid '{param}': token ids must be 0 to {size - 1}, but one is {wrong}"
        raise invalid(param, text)
    return tokens


def check_room(tokens: int, room: int, param: str) -> None:
    """
    Raises:
        ApiError: there are no tokens, or no answer fits behind them.
    """
    if not tokens:
        message = f"The prompt is empty: '{param}' gives no tokens. Send at least one character."
        raise ApiError(400, message, param=param, code="empty_prompt")
    if tokens >= room:
        raise _too_long(str(tokens), room, param)


def _check_format(form: OutputFormat) -> None:
    """Schemas and choices; texts have limits of their own where they are compiled."""
    if isinstance(form.value, str):
        return
    size = len(json.dumps(form.value, ensure_ascii=False))
    if size > _FORMAT_CHARACTERS:
        raise invalid(
            form.param,
            f"Invalid '{form.param}': it cannot be compiled: as JSON it has {size} characters, "
            f"and the limit is {_FORMAT_CHARACTERS}",
        )


def _tokens(ask: Ask, facts: Facts, room: int | None) -> Sequence[int]:
    tokenizer, prompt = facts.tokenizer, ask.prompt
    if isinstance(prompt, EncodedPrompt):
        return prompt.tokens
    if isinstance(prompt, RawPrompt) and prompt.text is None:
        return prompt.tokens
    try:
        if isinstance(prompt, RawPrompt):
            return tokenizer.encode_raw(prompt.text or "", limit=room)
        known = ask.tools.tools if ask.tools.mode is not ToolMode.NONE else ()
        switches = thinking.template_arguments(ask.thinking, facts.thinking, prompt.template_kwargs)
        return tokenizer.encode_chat(prompt.messages, switches, tools=known, limit=room)
    except TextTooLong as error:
        assert room is not None
        raise _too_long(f"at least {error.least}", room, prompt.param) from error
    except TemplateError as error:
        if isinstance(prompt, RawPrompt):
            raise invalid(prompt.param, str(error)) from error
        param = prompt.param if error.param == "messages" else error.param
        raise ApiError(400, str(error), param=param, code="template_error") from error


def _too_long(tokens: str, room: int, param: str) -> ApiError:
    message = (
        f"The prompt is {tokens} tokens long, but the model's context holds {room} tokens, "
        "prompt and answer together. Shorten it."
    )
    return ApiError(400, message, param=param, code="context_length_exceeded")


def _echoed(prompt: ChatPrompt | RawPrompt, tokens: Sequence[int], facts: Facts) -> str:
    text = prompt.text if isinstance(prompt, RawPrompt) else None
    return facts.tokenizer.decode(tokens) if text is None else text
