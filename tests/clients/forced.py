"""A target that follows scripted replies, and a drafter that often guesses them.

Both keep token ids in the caches that the engine gives them, as a real pair keeps its keys: the
whole history of a row is read back from there, and nothing else is known of it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from dflash_serve.adapters.base import CacheLayout, Captured, LayerCache
from tests.clients.script import STORY, read, replies

Ids = npt.NDArray[np.int64]
Choice = tuple[int, float]
"""A token and its logit."""

_HEAD = b"<|im_start|>assistant\n"
CHOICES = 16
"""Tokens with a logit of their own at each position."""
_FIRST, _END, _SECOND, _FILL = 60.0, 40.0, 50.0, 45.0
_CLOSERS = {"</tool_call>": 38.0, "}": 36.0, "]": 34.0, '"': 32.0, ":": 30.0, ",": 28.0, "0": 26.0}
"""Logits after a grammar has led away from every reply: whatever ends soon."""


class Mind:
    """Token ids of a row -> what the model wants next, most wanted first."""

    def __init__(self, backend: Tokenizer, vocab_size: int) -> None:
        self._backend = backend
        self._bytes = _token_bytes(backend)
        self._start = _id(backend, "<|im_start|>")
        self._end = _id(backend, "<|im_end|>")
        self._replies: OrderedDict[bytes, list[bytes]] = OrderedDict()
        self._closers = [(_id(backend, text), logit) for text, logit in _CLOSERS.items()]
        self.vocab_size = vocab_size

    def choices(self, history: Ids) -> list[Choice]:
        """For the position behind ``history``: at least one choice."""
        starts = np.flatnonzero(history == self._start)
        if not len(starts):
            return self._raw(history)
        prompt, turn = history[: starts[-1]], history[starts[-1] :]
        if not self._text(turn[: len(_HEAD)]).startswith(_HEAD):
            return [(self._end, _END)]  # inside the prompt: nobody asks
        said = self._text(turn).removeprefix(_HEAD)
        return self._follow(said, self._candidates(prompt))

    def _follow(self, said: bytes, candidates: list[bytes]) -> list[Choice]:
        """The next token of each reply that fits; behind a whole one the end, or else the story."""
        found: dict[int, float] = {}
        spoken = said.replace(b"<|im_end|>", b"")
        silent = [candidate for candidate in candidates if not candidate.startswith(b"<think>")]
        answer = spoken.rpartition(b"</think>")[2].lstrip()
        for text, fitting in ((spoken, candidates), (answer, silent)):
            for candidate in fitting:
                logit = _FIRST if not found else max(_FILL, _SECOND - len(found) / 8)
                if text.startswith(candidate):
                    rest = STORY.encode()[(len(text) - len(candidate)) % len(STORY) :]
                    found.setdefault(self._end, logit)
                    found.setdefault(self._next(rest), _FILL)
                elif candidate.startswith(text):
                    found.setdefault(self._next(candidate[len(text) :]), logit)
        return _best(found) or self._close(spoken)

    def _close(self, said: bytes) -> list[Choice]:
        """No reply fits: a word where a JSON string begins, a value in a new array, else an end."""
        found = {self._end: _END} | dict(self._closers)
        tail = said.rstrip()
        quotes = said.count(b'"') - said.count(b'\\"')
        if quotes % 2:
            word = tail.endswith((b':"', b': "'))
            found[_id(self._backend, '"')] = _FILL
            found[self._next(b"fox")] = _SECOND if word else 0.0
        elif tail.endswith(b"["):
            found[_id(self._backend, "]")] = 0.0
        return _best(found)

    def _raw(self, history: Ids) -> list[Choice]:
        """A prompt without a chat: the story goes on where the text left it."""
        tail, story = self._text(history[-64:]), STORY.encode()
        for size in range(min(len(tail), 48), 3, -1):
            at = story.find(tail[-size:])
            if at >= 0:
                rest = story[at + size :]
                return [(self._next(rest), _FIRST)] if rest else [(self._end, _FIRST)]
        return [(self._next(story), _FIRST)]

    def _candidates(self, prompt: Ids) -> list[bytes]:
        key = prompt.tobytes()
        if key not in self._replies:
            text = self._text(prompt).decode(errors="replace")
            self._replies[key] = [reply.encode() for reply in replies(read(text))]
            while len(self._replies) > 64:
                self._replies.popitem(last=False)
        return self._replies[key]

    def _next(self, text: bytes) -> int:
        """The first token of ``text``, which may begin inside a character."""
        if text[0] & 0xC0 == 0x80:
            return self._bytes.index(text[:1])
        head = text[:64].decode(errors="ignore")
        token: int = self._backend.encode(head, add_special_tokens=False).ids[0]
        return token

    def _text(self, ids: Ids) -> bytes:
        known = len(self._bytes)
        return b"".join(self._bytes[token] for token in ids.tolist() if 0 <= token < known)


class ForcedTarget:
    """A `TargetAdapter` whose hidden states are the choices themselves: ids, then logits."""

    num_layers = 1
    hidden_size = 2 * CHOICES
    layout = CacheLayout(layers=1, kv_heads=1, head_dim=1, dtype=mx.float32)

    def __init__(self, mind: Mind, max_context: int) -> None:
        self._mind = mind
        self._context = max_context
        noise = np.random.default_rng(0).uniform(-4.0, 0.0, mind.vocab_size)
        self._noise = mx.array(noise.astype(np.float32))

    @property
    def vocab_size(self) -> int:
        return self._mind.vocab_size

    @property
    def max_context(self) -> int:
        return self._context

    def embed(self, tokens: mx.array) -> mx.array:
        return mx.broadcast_to(tokens[..., None], (*tokens.shape, self.hidden_size))

    def forward(
        self,
        tokens: mx.array,
        mask: mx.array,
        caches: Sequence[LayerCache],
        tap_layers: tuple[int, ...] = (),
    ) -> Captured:
        taps = tokens[..., None].astype(mx.float32)  # [R, q, 1]
        rows = remember(taps, caches[0])
        hidden = np.zeros((*tokens.shape, self.hidden_size), dtype=np.float32)
        for row, (history, held) in enumerate(rows):
            for at in range(tokens.shape[1]):
                hidden[row, at] = _packed(self._mind.choices(history[: held + at + 1]))
        return Captured(mx.array(hidden), taps if tap_layers else None)

    def logits(self, hidden: mx.array) -> mx.array:
        ids, values = hidden[..., :CHOICES].astype(mx.int32), hidden[..., CHOICES:]
        noise = mx.broadcast_to(self._noise, (*hidden.shape[:-1], self.vocab_size))
        return mx.put_along_axis(noise, ids, values, axis=-1)


class ForcedDrafter:
    """A `DraftAdapter` that proposes what the target wants, and every fifth time something else."""

    layout = CacheLayout(layers=1, kv_heads=1, head_dim=1, dtype=mx.float32)
    target_layer_ids = (0,)

    def __init__(self, mind: Mind, block_size: int) -> None:
        self._mind = mind
        self.block_size = self.runtime_block_size = block_size

    def append_context(self, taps: mx.array, caches: Sequence[LayerCache]) -> None:
        remember(taps, caches[0])

    def propose(
        self, anchors: mx.array, block_lengths: mx.array, width: int, caches: Sequence[LayerCache]
    ) -> mx.array:
        empty = mx.zeros((anchors.shape[0], width - 1), dtype=anchors.dtype)
        block = mx.concatenate([anchors[:, None], empty], axis=1)[..., None]
        drafts = []
        for history, held in remember(block.astype(mx.float32), caches[0]):
            row = history[: held + 1]
            for _ in range(width - 1):
                row = np.append(row, self._guess(row))
            drafts.append(row[held + 1 :])
        return mx.array(np.stack(drafts).astype(np.int32))

    def _guess(self, history: Ids) -> int:
        wrong = (int(history[-1]) + len(history)) % 5 == 0
        token = self._mind.choices(history)[0][0]
        return (token + 1) % self._mind.vocab_size if wrong else token


def remember(tokens: mx.array, cache: LayerCache) -> list[tuple[Ids, int]]:
    """Write token ids [R, q, 1] into the cache; each row's ids, and how many were there before."""
    keys = tokens[:, None]  # [R, 1, q, 1]
    offsets = np.array(cache.offset).tolist()
    stored, _ = cache.update_and_fetch(keys, keys)
    rows = np.array(stored)[:, 0, :, 0].astype(np.int64)
    return list(zip(rows, offsets, strict=True))


def _best(found: dict[int, float]) -> list[Choice]:
    return sorted(found.items(), key=lambda choice: -choice[1])[:CHOICES]


def _packed(choices: list[Choice]) -> npt.NDArray[np.float32]:
    padded = choices + choices[-1:] * (CHOICES - len(choices))
    return np.array([*(token for token, _ in padded), *(logit for _, logit in padded)], np.float32)


def _id(backend: Tokenizer, text: str) -> int:
    token: int = backend.encode(text, add_special_tokens=False).ids[0]
    return token


def _token_bytes(backend: Tokenizer) -> list[bytes]:
    """The bytes of every token: byte-level BPE writes each byte as one printable character."""
    added = backend.get_added_tokens_decoder()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable}
    byte_of |= {chr(256 + at): byte for at, byte in enumerate(others)}
    found = []
    for token in range(backend.get_vocab_size()):
        if token in added:
            found.append(added[token].content.encode())
        else:
            found.append(bytes(byte_of[char] for char in backend.id_to_token(token)))
    return found


@dataclass(frozen=True, slots=True)
class ForcedPair:
    """What `forced_pair` makes."""

    target: ForcedTarget
    drafter: ForcedDrafter


def forced_pair(backend: Tokenizer, vocab_size: int, context: int, block: int) -> ForcedPair:
    """A target and a drafter of one mind each: nothing is shared between their caches."""
    target = ForcedTarget(Mind(backend, vocab_size), context)
    return ForcedPair(target, ForcedDrafter(Mind(backend, vocab_size), block))
