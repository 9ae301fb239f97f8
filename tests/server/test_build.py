"""What the composition root makes of failures further down."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.commands import LaneRunner, Loaded, NewDrafter
from dflash_serve.engine.grammar import from_regex
from dflash_serve.server.build import (
    checkpoints,
    choose_markup,
    drafter_change,
    grammar_compiler,
    model_card,
)
from dflash_serve.server.drafting import DrafterRefused
from dflash_serve.server.settings import Settings, SettingsError
from dflash_serve.text.tokenizer import ChatTokenizer


def _no_load() -> Loaded:
    raise AssertionError


class Full(AsyncEngine):
    """An engine whose device has no room for a second drafter."""

    def require_ready(self) -> Loaded:
        return Loaded(None, None)  # type: ignore[arg-type]

    async def swap(self, load: Callable[[LaneRunner], NewDrafter]) -> None:
        raise RuntimeError("[malloc] Unable to allocate\n64 bytes")


def test_a_drafter_without_room_is_refused_in_one_line() -> None:
    async def swap() -> None:
        await drafter_change(Settings(), Full(_no_load))("auto")

    with pytest.raises(DrafterRefused, match=r"^\[malloc\] Unable to allocate 64 bytes$"):
        asyncio.run(swap())


def test_the_markup_is_what_the_template_shows_or_what_is_asked_for(
    tokenizer: ChatTokenizer,
) -> None:
    shown = choose_markup(Settings(), tokenizer)
    assert shown.reasoning == ("<think>", "</think>")
    chosen = choose_markup(Settings(tool_parser="hermes", reasoning_parser="none"), tokenizer)
    assert chosen.name == "hermes"
    assert chosen.reasoning is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("tool_parser", "hermess"), ("reasoning_parser", "x"), ("tool_parser", "none")],
)
def test_a_parser_that_there_is_not_is_refused_with_the_names(
    tokenizer: ChatTokenizer, option: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        choose_markup(Settings(**{option: value}), tokenizer)  # type: ignore[arg-type]
    text = str(caught.value)
    assert f"'{value}'" in text
    assert "--" + option.replace("_", "-") in text
    assert ("hermes" if option == "tool_parser" else "think") in text
    assert "\n" not in text


def test_the_demo_can_be_bound_by_grammars() -> None:
    target, _ = checkpoints(Settings())
    card = model_card(Settings(), target)
    tokenizer = ChatTokenizer.load(target)
    assert card.vocab_size >= tokenizer.backend.get_vocab_size()
    grammar = grammar_compiler(tokenizer, card).compile(from_regex("ab+"))
    ids = tokenizer.backend.encode("abb", add_special_tokens=False).ids
    assert grammar.start().try_consume_tokens(ids) == len(ids)


def test_an_end_token_that_the_model_has_no_logit_for_is_left_out(tmp_path: Path) -> None:
    config = {"max_position_embeddings": 64, "vocab_size": 96}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 96, 2000]}))
    assert model_card(Settings(), tmp_path).stop_tokens == {5}
