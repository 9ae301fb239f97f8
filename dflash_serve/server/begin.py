"""`begin`: a validated `Ask` -> a running `Generation`. What all doors share.

Knows no wire types. Slow work (template, tokenizer, grammars) is kept off the event loop.
"""

from dataclasses import replace

from starlette.concurrency import run_in_threadpool

from dflash_serve.engine.types import EngineRequest, ThinkingRule, TokenGrammar
from dflash_serve.server import grammars, thinking
from dflash_serve.server.answer import Answer
from dflash_serve.server.ask import Ask, EncodedPrompt
from dflash_serve.server.choice import Choice, Extras
from dflash_serve.server.context import ModelContext
from dflash_serve.server.generation import Generation
from dflash_serve.server.prompts import check_room, encoded
from dflash_serve.text.stream import Detokenizer, StopFinder, TextStream


async def begin(ask: Ask, context: ModelContext, name: str, group: str = "") -> Generation:
    """Submit ``ask`` to the engine; its answer is read from the generation's deltas.

    ``name`` identifies the request in the log and to the engine. Generations of one ``group``
    share a turn in its queue; empty is a turn of its own.

    Raises:
        ApiError: naming the field, the value and the limit.
        EngineError: the engine refuses the request.
    """
    room = context.client.max_context  # raises while the engine is loading
    if not isinstance(ask.prompt, EncodedPrompt):
        ask = await run_in_threadpool(encoded, ask, context.facts, room)
    prompt = ask.prompt
    assert isinstance(prompt, EncodedPrompt)
    check_room(len(prompt.tokens), room, prompt.param)
    grammar = await _grammar(ask, context)
    first = replace(
        _request(ask, context, name, prompt, room),
        group=group or name,
        grammar=grammar,
        thinking=_rule(ask, context, prompt, grammar),
    )
    choices = [_choice(index, first, ask, context, prompt) for index in range(ask.n)]
    generation = Generation(name, context.client, choices, context.drafting, context.recorder)
    generation.start()
    return generation


async def _grammar(ask: Ask, context: ModelContext) -> TokenGrammar | None:
    needed = grammars.needed(ask.format, ask.tools, context.markup)
    return None if needed is None else await context.grammars.compile(*needed)


def _rule(
    ask: Ask, context: ModelContext, prompt: EncodedPrompt, grammar: TokenGrammar | None
) -> ThinkingRule | None:
    """Finding the reasoning costs the engine something: only where it matters."""
    if not prompt.chat:
        return None
    markers = thinking.markers(context.markup, context.tokenizer)
    if markers is None:
        return None
    if max(*markers.open, *markers.close) >= context.model.vocab_size:
        return None  # the model has no logits for them
    rule = thinking.rule(ask.thinking, context.thinking, markers, prompt.begun)
    used = (prompt.begun or rule.open) and (grammar is not None or rule.budget is not None)
    return rule if used else None


def _request(
    ask: Ask, context: ModelContext, name: str, prompt: EncodedPrompt, room: int
) -> EngineRequest:
    left = room - len(prompt.tokens)
    own = frozenset() if ask.ignore_end else context.model.stop_tokens
    return EngineRequest(
        id=name,
        prompt=tuple(prompt.tokens),
        max_tokens=left if ask.max_tokens is None else max(1, min(ask.max_tokens, left)),
        sampling=ask.sampling,
        stop_tokens=own | ask.stop_tokens,
        rules=ask.rules,
        logprobs=ask.logprobs,
        prompt_logprobs=ask.logprobs if ask.echo else None,
    )


def _choice(
    index: int, first: EngineRequest, ask: Ask, context: ModelContext, prompt: EncodedPrompt
) -> Choice:
    sampling = replace(first.sampling, seed=_wrap(first.sampling.seed + index))
    request = replace(first, id=f"{first.id}-{index}", sampling=sampling)
    table = context.tokenizer.token_text
    markup = context.markup
    tools = grammars.wanted_tools(ask.tools)
    reads = prompt.chat and bool(tools or markup.reasoning)
    kept = table.ids(markup.markers) if reads else frozenset()
    stream = TextStream(
        Detokenizer(table, kept), StopFinder(ask.stop, ask.include_stop), ask.rules.min_tokens
    )
    parser = markup.parser(tools, in_reasoning=prompt.begun) if reads else None
    answer = Answer(index, parser, in_reasoning=prompt.begun, parallel=ask.tools.parallel)
    extras = Extras(
        prompt.text,
        ask.stop_tokens if ask.include_stop else frozenset(),
        ask.max_tokens == 0,
    )
    return Choice(index, request, stream, answer, table, extras)


def _wrap(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63
