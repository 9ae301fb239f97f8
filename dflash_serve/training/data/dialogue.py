"""A chat that is being answered: the next prompt, and the exact token sequences so far.

A sequence is always a prompt as serving renders it and the answer's own tokens. Where the next
prompt begins with the sequence so far, it grows; where the template renders an earlier answer
differently (thinking that is left out, say), a new sequence begins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dflash_serve.measure.errors import RowError
from dflash_serve.measure.shapes import Chat, Message
from dflash_serve.text.errors import TemplateError
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data.answers import Answer, Span

Turns = Literal["all", "last"]


@dataclass(frozen=True, slots=True)
class Rules:
    """How chats become sequences.

    ``keep`` takes the given answers; else they are asked for anew: ``all`` turns, or the ``last``
    with the earlier ones as given. ``max_length`` bounds prompt and answer together.
    """

    tokenizer: ChatTokenizer
    template_kwargs: Mapping[str, Any]
    stop_tokens: frozenset[int]
    max_length: int
    min_loss_tokens: int
    keep: bool = False
    turns: Turns = "all"

    def prompt(self, messages: list[Message]) -> tuple[int, ...]:
        return self._render(messages, generation_prompt=True)

    def given_answer(self, messages: list[Message], prompt: tuple[int, ...]) -> tuple[int, ...]:
        """Tokens of the last message as the template renders it after ``prompt``.

        From where the prompt ends to the stop token, so that no scaffolding is counted.
        """
        whole = self._render(messages, generation_prompt=False)
        if whole[: len(prompt)] != prompt:
            raise RowError("the template renders an answer otherwise than its prompt")
        answer = whole[len(prompt) :]
        stops = [at for at, token in enumerate(answer) if token in self.stop_tokens]
        if not stops:
            raise RowError("the template ends no answer with a stop token of the target")
        return answer[: stops[0] + 1]

    def _render(self, messages: list[Message], *, generation_prompt: bool) -> tuple[int, ...]:
        try:
            return self.tokenizer.encode_chat(
                messages, self.template_kwargs, generation_prompt=generation_prompt
            )
        except TemplateError as error:
            raise RowError("the template refuses it", str(error.__cause__ or error)) from error


class Dialogue:
    """One row's chat; owns its messages, in which fresh answers take the place of given ones.

    Raises:
        RowError: the row cannot be used.
    """

    def __init__(self, row: int, chat: Chat, rules: Rules) -> None:
        self.row, self.kind = row, chat.kind
        self.cut_short: RowError | None = None
        """Why later turns were left out, if they were."""
        self._rules = rules
        self._messages = list(chat.messages)
        self._sequences: list[tuple[tuple[int, ...], list[Span]]] = []
        self._prompt: tuple[int, ...] | None = None
        self._at = -1  # the message that answers the prompt
        self._next = iter(() if rules.keep else self._asked())
        if rules.keep:
            self._take_given()
        else:
            self._advance()
        if self.cut_short and not self._sequences and self._prompt is None:
            raise self.cut_short

    def next_prompt(self) -> tuple[int, ...] | None:
        """Token ids up to the next answer, or None when the chat is done."""
        return self._prompt

    def take(self, tokens: tuple[int, ...], *, stopped: bool) -> None:
        """The answer to `next_prompt`, its stop token included if there is one."""
        assert self._prompt is not None
        self._add(self._prompt, tokens)
        text = self._rules.tokenizer.backend.decode(
            tokens[:-1] if stopped else tokens, skip_special_tokens=True
        )
        self._messages[self._at] = {"role": "assistant", "content": text}
        if stopped:
            self._advance()
        else:
            self._prompt = None
            if next(self._next, None) is not None:
                self.cut_short = RowError("an answer reached its limit without a stop token")

    def answers(self) -> list[Answer]:
        """The sequences so far."""
        return [
            Answer(self.row, self.kind, np.array(tokens, dtype=np.int32), tuple(spans))
            for tokens, spans in self._sequences
        ]

    @property
    def loss_tokens(self) -> int:
        """Of the sequence that has most."""
        return max(sum(end - start for start, end in spans) for _, spans in self._sequences)

    def _asked(self) -> list[int]:
        """Which messages are answers to ask for; the last may not be there yet."""
        if self._messages[-1]["role"] != "assistant":
            self._messages.append({"role": "assistant", "content": ""})
        if self._rules.turns == "last":
            return [len(self._messages) - 1]
        return [at for at in self._answers() if not self._is_call(at)]

    def _answers(self) -> Iterator[int]:
        return (at for at, m in enumerate(self._messages) if m["role"] == "assistant")

    def _is_call(self, at: int) -> bool:
        """An answer that a tool answers stays as it is: another one would make no sense of it."""
        return self._messages[at + 1 : at + 2] != [] and self._messages[at + 1]["role"] == "tool"

    def _advance(self) -> None:
        """Render the next prompt, or end the chat."""
        self._prompt = None
        at = next(self._next, None)
        if at is None:
            return
        try:
            prompt = self._rules.prompt(self._messages[:at])
        except RowError as error:
            self.cut_short = error
            return
        if self._rules.max_length - len(prompt) < max(1, self._rules.min_loss_tokens):
            self.cut_short = self._too_long("prompt too long", len(prompt))
            return
        self._at, self._prompt = at, prompt

    def _too_long(self, reason: str, length: int) -> RowError:
        return RowError(reason, f"{length} tokens, and the limit is {self._rules.max_length}")

    def _take_given(self) -> None:
        for at in self._answers():
            message = self._messages[at]
            if not message["content"].strip() and "tool_calls" not in message:
                raise RowError("empty", "an answer without text")
            prompt = self._rules.prompt(self._messages[:at])
            answer = self._rules.given_answer(self._messages[: at + 1], prompt)
            if len(prompt) + len(answer) > self._rules.max_length:
                self.cut_short = self._too_long("too long", len(prompt) + len(answer))
                return
            self._add(prompt, answer)
        if not self._sequences:
            raise RowError("no answer to keep")
        if self.loss_tokens < self._rules.min_loss_tokens:
            raise RowError("too few loss tokens", str(self.loss_tokens))

    def _add(self, prompt: tuple[int, ...], answer: tuple[int, ...]) -> None:
        span = (len(prompt), len(prompt) + len(answer))
        if self._sequences:
            tokens, spans = self._sequences[-1]
            if prompt[: len(tokens)] == tokens:
                self._sequences[-1] = (prompt + answer, [*spans, span])
                return
        self._sequences.append((prompt + answer, [span]))
