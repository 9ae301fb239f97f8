"""How a model's text is read and written: its tokenizer, its markup and its grammars."""

from dataclasses import dataclass
from pathlib import Path

from dflash_serve.compose.cards import ModelCard
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.engine.grammar import GrammarCompiler
from dflash_serve.text.parsers import table
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.lark import special_ids
from dflash_serve.text.parsers.table import ThinkingSwitch
from dflash_serve.text.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class ModelText:
    """``thinking``: how the chat template switches reasoning, None if it cannot.

    ``compiler`` reads the vocabulary when it is first used.
    """

    tokenizer: ChatTokenizer
    markup: Markup
    thinking: ThinkingSwitch | None
    compiler: GrammarCompiler


def load_text(options: EngineOptions, target: Path, model: ModelCard) -> ModelText:
    """What is needed to turn requests into the model's tokens, and its tokens into answers.

    Raises:
        ValueError: the directory has no tokenizer that can be used.
        OptionsError: a parser that there is not, or two that cannot go together.
    """
    tokenizer = ChatTokenizer.load(target)
    return ModelText(
        tokenizer,
        choose_markup(options, tokenizer),
        table.thinking_switch(tokenizer.template),
        grammar_compiler(tokenizer, model),
    )


def grammar_compiler(tokenizer: ChatTokenizer, model: ModelCard) -> GrammarCompiler:
    """What compiles grammars over the model's tokens."""
    ends = sorted(model.stop_tokens)
    return GrammarCompiler(tokenizer.backend.to_str(), model.vocab_size, ends)


def choose_markup(options: EngineOptions, tokenizer: ChatTokenizer) -> Markup:
    """How the model writes reasoning and tool calls: as its template shows, or as asked for.

    Raises:
        OptionsError: a parser that there is not, or two that cannot go together.
    """
    chosen = {
        name: None if value == "auto" else value
        for name, value in (
            ("tool", options.tool_parser),
            ("reasoning", options.reasoning_parser),
        )
    }
    try:
        markup = table.detect(
            tokenizer.template,
            tokenizer.added_tokens,
            tools=chosen["tool"],
            reasoning=chosen["reasoning"],
        )
    except ValueError as error:
        given = [f"--{name}-parser" for name, value in chosen.items() if value is not None]
        raise OptionsError(f"{', '.join(given)}: {error}") from error
    return markup.with_special(special_ids(markup.markers, tokenizer.backend))
