"""`begin`: a validated `Ask` -> a running `Generation`. What all doors share.

Knows no wire types. Slow work (template, tokenizer, grammars) is kept off the event loop.
"""

from dataclasses import dataclass, replace

from starlette.concurrency import run_in_threadpool

from dflash_serve.engine.types import EngineRequest, ThinkingRule, TokenGrammar
from dflash_serve.server import grammars, thinking
from dflash_serve.server.answer import Answer
from dflash_serve.server.ask import Ask, ChatPrompt, RawPrompt, ToolMode
from dflash_serve.server.choice import Choice, Extras
from dflash_serve.server.context import ModelContext
from dflash_serve.server.errors import ApiError, invalid
from dflash_serve.server.generation import Generation
from dflash_serve.text.errors import TemplateError
from dflash_serve.text.stream import Detokenizer, StopFinder, TextStream


async def begin(ask: Ask, context: ModelContext, name: str, group: str = "") -> Generation:
    """Submit ``ask`` to the engine; its answer is read from the generation's deltas.

    ``name`` identifies the request in the log and to the engine. Generations of one ``group``
    share a turn in its queue; empty is a turn of its own.

    Raises:
        ApiError: naming the field, the value and the limit.
        EngineError: the engine refuses the request.
    """
    room = _Room(context.client.max_context)  # raises while the engine is loading
    prompt = await run_in_threadpool(prompt_tokens, ask, context)
    room.check(prompt, ask.prompt.param)
    begun = isinstance(ask.prompt, ChatPrompt) and thinking.is_open(
        prompt, context.markup, context.tokenizer
    )
    grammar = await _grammar(ask, context)
    first = replace(
        _request(ask, context, name, prompt, room),
        group=group or name,
        grammar=grammar,
        thinking=_rule(ask, context, begun, grammar),
    )
    choices = [_choice(index, first, ask, context, begun) for index in range(ask.n)]
    generation = Generation(name, context.client, choices, context.drafting, context.recorder)
    generation.start()
    return generation


def prompt_tokens(ask: Ask, context: ModelContext) -> tuple[int, ...]:
    """The prompt as the model reads it. Blocking: call it on a worker thread.

    Raises:
        ApiError: the template refuses the messages, or a token id is not in the vocabulary.
    """
    param, size = ask.prompt.param, context.model.vocab_size
    tokens = _encoded(ask, context)
    if max(tokens, default=0) >= size or min(tokens, default=0) < 0:
        # of a text too: a tokenizer may know control tokens that the model has no row for
        wrong = next(token for token in tokens if not 0 <= token < size)
        text = f"Invalid '{param}': token ids must be 0 to {size - 1}, but one is {wrong}"
        raise invalid(param, text)
    return tokens


def _encoded(ask: Ask, context: ModelContext) -> tuple[int, ...]:
    tokenizer, prompt = context.tokenizer, ask.prompt
    if isinstance(prompt, ChatPrompt):
        known = ask.tools.tools if ask.tools.mode is not ToolMode.NONE else ()
        switches = thinking.template_arguments(
            ask.thinking, context.thinking, prompt.template_kwargs
        )
        try:
            return tokenizer.encode_chat(prompt.messages, switches, tools=known)
        except TemplateError as error:
            param = prompt.param if error.param == "messages" else error.param
            raise ApiError(400, str(error), param=param, code="template_error") from error
    if prompt.text is None:
        return prompt.tokens
    try:
        return tokenizer.encode_raw(prompt.text)
    except TemplateError as error:
        raise invalid(prompt.param, str(error)) from error


@dataclass(frozen=True, slots=True)
class _Room:
    """The context that prompt and answer share."""

    context: int

    def check(self, prompt: tuple[int, ...], param: str) -> None:
        if not prompt:
            message = (
                f"The prompt is empty: '{param}' gives no tokens. Send at least one character."
            )
            raise ApiError(400, message, param=param, code="empty_prompt")
        if len(prompt) >= self.context:
            message = (
                f"The prompt is {len(prompt)} tokens long, but the model's context holds "
                f"{self.context} tokens, prompt and answer together. Shorten it."
            )
            raise ApiError(400, message, param=param, code="context_length_exceeded")

    def left(self, prompt: tuple[int, ...], wanted: int | None) -> int:
        """Tokens of the answer: what is wanted, as far as there is room."""
        room = self.context - len(prompt)
        return room if wanted is None else max(1, min(wanted, room))


async def _grammar(ask: Ask, context: ModelContext) -> TokenGrammar | None:
    needed = grammars.needed(ask.format, ask.tools, context.markup)
    return None if needed is None else await context.grammars.compile(*needed)


def _rule(
    ask: Ask, context: ModelContext, begun: bool, grammar: TokenGrammar | None
) -> ThinkingRule | None:
    """Finding the reasoning costs the engine something: only where it matters."""
    if not isinstance(ask.prompt, ChatPrompt):
        return None
    markers = thinking.markers(context.markup, context.tokenizer)
    if markers is None:
        return None
    if max(*markers.open, *markers.close) >= context.model.vocab_size:
        return None  # the model has no logits for them
    rule = thinking.rule(ask.thinking, context.thinking, markers, begun)
    used = (begun or rule.open) and (grammar is not None or rule.budget is not None)
    return rule if used else None


def _request(
    ask: Ask, context: ModelContext, name: str, prompt: tuple[int, ...], room: _Room
) -> EngineRequest:
    own = frozenset() if ask.ignore_end else context.model.stop_tokens
    return EngineRequest(
        id=name,
        prompt=prompt,
        max_tokens=room.left(prompt, ask.max_tokens),
        sampling=ask.sampling,
        stop_tokens=own | ask.stop_tokens,
        rules=ask.rules,
        logprobs=ask.logprobs,
        prompt_logprobs=ask.logprobs if ask.echo else None,
    )


def _choice(
    index: int, first: EngineRequest, ask: Ask, context: ModelContext, begun: bool
) -> Choice:
    sampling = replace(first.sampling, seed=_wrap(first.sampling.seed + index))
    request = replace(first, id=f"{first.id}-{index}", sampling=sampling)
    table = context.tokenizer.token_text
    chat, markup = isinstance(ask.prompt, ChatPrompt), context.markup
    tools = grammars.wanted_tools(ask.tools)
    reads = chat and bool(tools or markup.reasoning)
    kept = table.ids(markup.markers) if reads else frozenset()
    stream = TextStream(
        Detokenizer(table, kept), StopFinder(ask.stop, ask.include_stop), ask.rules.min_tokens
    )
    parser = markup.parser(tools, in_reasoning=begun) if reads else None
    answer = Answer(index, parser, in_reasoning=begun, parallel=ask.tools.parallel)
    extras = Extras(
        _echoed(ask, first.prompt, context) if ask.echo else None,
        ask.stop_tokens if ask.include_stop else frozenset(),
        ask.max_tokens == 0,
    )
    return Choice(index, request, stream, answer, table, extras)


def _echoed(ask: Ask, prompt: tuple[int, ...], context: ModelContext) -> str:
    text = ask.prompt.text if isinstance(ask.prompt, RawPrompt) else None
    return context.tokenizer.decode(prompt) if text is None else text


def _wrap(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63
