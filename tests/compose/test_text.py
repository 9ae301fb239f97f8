"""Which markup and grammars a model's text gets."""

import pytest

from dflash_serve.compose.cards import model_card
from dflash_serve.compose.directories import DEMO
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.compose.text import choose_markup, load_text
from dflash_serve.engine.grammar import from_regex
from dflash_serve.text.tokenizer import ChatTokenizer


def test_the_markup_is_what_the_template_shows_or_what_is_asked_for(
    tokenizer: ChatTokenizer,
) -> None:
    shown = choose_markup(EngineOptions(), tokenizer)
    assert shown.reasoning == ("<think>", "</think>")
    chosen = choose_markup(EngineOptions(tool_parser="hermes", reasoning_parser="none"), tokenizer)
    assert chosen.name == "hermes"
    assert chosen.reasoning is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("tool_parser", "hermess"), ("reasoning_parser", "x"), ("tool_parser", "none")],
)
def test_a_parser_that_there_is_not_is_refused_with_the_names(
    tokenizer: ChatTokenizer, option: str, value: str
) -> None:
    with pytest.raises(OptionsError) as caught:
        choose_markup(EngineOptions(**{option: value}), tokenizer)  # type: ignore[arg-type]
    text = str(caught.value)
    assert f"'{value}'" in text
    assert "--" + option.replace("_", "-") in text
    assert ("hermes" if option == "tool_parser" else "think") in text
    assert "\n" not in text


def test_the_demo_can_be_bound_by_grammars() -> None:
    options, target = EngineOptions(), DEMO / "target"
    card = model_card(options, target)
    text = load_text(options, target, card)
    backend = text.tokenizer.backend
    assert card.vocab_size >= backend.get_vocab_size()
    grammar = text.compiler.compile(from_regex("ab+"))
    ids = backend.encode("abb", add_special_tokens=False).ids
    assert grammar.start().try_consume_tokens(ids) == len(ids)
