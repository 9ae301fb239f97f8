"""What turning a request body into work needs: facts about the model, and nothing that runs.

Everything here can be pickled, so that a body is handled alike in this process and in a worker.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dflash_serve.engine.types import SamplingParams
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.table import ThinkingSwitch
from dflash_serve.text.tokenizer import ChatTokenizer

Find = Callable[[str, str], Any]
"""Looks up what the server keeps: its kind and its name -> the value, or None."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What requests are checked against and encoded with.

    ``model`` is the served name. ``sampling`` and ``seed`` are the defaults for what a request
    leaves out. ``max_context`` is the context that was asked for; the engine may hold less.
    """

    model: str
    vocab_size: int
    max_context: int
    sampling: SamplingParams
    seed: int | None
    tokenizer: ChatTokenizer
    markup: Markup
    thinking: ThinkingSwitch | None


def nothing_kept(kind: str, name: str) -> None:
    """The `Find` of doors that keep nothing."""


@dataclass(frozen=True, slots=True)
class Handling:
    """The surroundings of one body.

    ``room``: the tokens that the engine holds for prompt and answer; None while it is loading.
    """

    facts: Facts
    room: int | None
    find: Find = nothing_kept


_Result = TypeVar("_Result")
Handler = Callable[[bytes, Handling], _Result]
"""A door's whole handling of a body: JSON, checks, template, tokens. A function of a module.

It raises `ApiError`. What it returns is small: it has no text that the prompt was made from.
"""
