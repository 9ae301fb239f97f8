"""Drawn dialogues as token rows for pre-training, and held-out ones for its exact match."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from corpus import Message, conversations
from tokenizers import Tokenizer
from torch import Tensor

PROMPT_WEIGHT = 0.05
TOKENS_PER_PIECE = 512


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that are computed together, [B, T] each: tokens, the next ones, and loss weights."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor


class Encoder:
    """Dialogues to token ids and loss weights, exactly as the chat template would render them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.start, self.end, self.pad = (
            tokenizer.token_to_id(token)
            for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
        )
        self._newline = self.text("\n")

    def text(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def dialogue(self, messages: list[Message]) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for message in messages:
            head = [self.start, *self.text(message["role"] + "\n")]
            body = [*self.text(message["content"].strip()), self.end]
            weight = 1.0 if message["role"] == "assistant" else PROMPT_WEIGHT
            ids += head + body + self._newline
            weights += [0.0] * len(head) + [weight] * len(body) + [0.0] * len(self._newline)
        return ids, weights

    def answered(self, messages: list[Message], answer: str) -> tuple[list[int], int]:
        """Token ids up to the answer's end token, and where the answer begins."""
        ids, _ = self.dialogue([*messages, {"role": "assistant", "content": answer}])
        ids = ids[: len(ids) - len(self._newline)]
        return ids, len(ids) - len(self.text(answer)) - 1


def piece(encoder: Encoder, name: str, length: int) -> Piece:
    """`TOKENS_PER_PIECE` tokens in rows of ``length``, drawn from the seed ``name``."""
    stream = conversations(name)
    drawn = [_row(encoder, stream, length) for _ in range(TOKENS_PER_PIECE // length)]
    ids = torch.tensor([row[0] for row in drawn])
    weights = torch.tensor([row[1] for row in drawn])
    return Piece(ids[:, :-1], ids[:, 1:], weights[:, 1:])


def _row(
    encoder: Encoder, stream: Iterator[list[Message]], length: int
) -> tuple[list[int], list[float]]:
    """Whole dialogues one after another, cut at the row's end."""
    ids: list[int] = []
    weights: list[float] = []
    while len(ids) < length + 1:
        messages = next(stream)
        if ids and messages[0]["role"] == "system":
            messages = messages[1:]
        more, more_weights = encoder.dialogue(messages)
        ids += more
        weights += more_weights
    return ids[: length + 1], weights[: length + 1]
