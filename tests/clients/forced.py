"""A target that follows scripted replies, and a drafter that often guesses them.

The target keeps token ids in the cache that the engine gives it, as a real one keeps its state: the
whole history of a row is read back from there, and nothing else is known of it. The drafter knows
which token often follows another.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from dflash_serve.adapters.base import AttentionCache, Captured, LayerCache
from dflash_serve.adapters.cache_spec import StateArray, StateSpec
from dflash_serve.bench.simulated import ChainDraft
from tests.clients.script import STORY, THOUGHT, read, replies

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
    dtype = mx.float32

    def __init__(self, mind: Mind, max_context: int) -> None:
        self._mind = mind
        self._context = max_context
        noise = np.random.default_rng(0).uniform(-4.0, 0.0, mind.vocab_size)
        self._noise = mx.array(noise.astype(np.float32))

    @property
    def cache_specs(self) -> tuple[StateSpec, ...]:
        """A row's token ids, and how many there are."""
        ids = StateArray((self._context,), mx.int32)
        return (StateSpec((ids, StateArray((1,), mx.int32))),)

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
        caches: Sequence[LayerCache],
        tap_layers: tuple[int, ...] = (),
    ) -> Captured:
        (cache,) = caches
        held = [
            row[: int(count)] for row, (count,) in zip(*map(np.array, cache.state), strict=True)
        ]
        new, lengths = np.array(tokens), np.array(cache.lengths)
        hidden = np.zeros((*tokens.shape, self.hidden_size), dtype=np.float32)
        for row, (history, ids) in enumerate(zip(held, new, strict=True)):
            whole = np.concatenate([history, ids]).astype(np.int64)
            for at in range(lengths[row]):
                hidden[row, at] = _packed(self._mind.choices(whole[: len(history) + at + 1]))
        cache.record(lambda state, kept: _appended(state, new, kept))
        taps = mx.zeros((*tokens.shape, self.hidden_size)) if tap_layers else None
        return Captured(mx.array(hidden), taps)

    def logits(self, hidden: mx.array) -> mx.array:
        ids, values = hidden[..., :CHOICES].astype(mx.int32), hidden[..., CHOICES:]
        noise = mx.broadcast_to(self._noise, (*hidden.shape[:-1], self.vocab_size))
        return mx.put_along_axis(noise, ids, values, axis=-1)


class ForcedDrafter:
    """A `DraftAdapter` without layers: after each token the one that most often follows it."""

    dtype = mx.float32
    cache_specs = ()
    target_layer_ids = (0,)

    def __init__(self, backend: Tokenizer, vocab_size: int, block_size: int) -> None:
        pairs: Counter[tuple[int, int]] = Counter()
        for text in (STORY, THOUGHT, '{"name": "get_weather", "arguments": {"city": "Paris"}}'):
            ids = backend.encode(text, add_special_tokens=False).ids
            pairs.update(pairwise(ids))
        follows = np.zeros(vocab_size, dtype=np.int32)
        for (token, following), _ in reversed(pairs.most_common()):
            follows[token] = following
        self._follows = mx.array(follows)
        self.block_size = self.runtime_block_size = block_size

    def inputs(self, width: int) -> int:
        return width

    def append_context(self, taps: mx.array, caches: Sequence[AttentionCache]) -> None:
        """Nothing to keep: there are no layers."""

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> ChainDraft:
        drafts = [anchors]
        for _ in range(width - 1):
            drafts.append(self._follows[drafts[-1]])
        return ChainDraft(mx.stack(drafts[1:], axis=1))


def _appended(
    state: tuple[mx.array, ...], new: npt.NDArray[np.int32], kept: mx.array
) -> tuple[mx.array, ...]:
    """Token ids [R, context] and counts [R, 1], with the first ``kept`` [R] of ``new`` [R, q]."""
    ids, counts = (np.array(array) for array in state)
    for row, more in enumerate(np.array(kept)):
        start = int(counts[row, 0])
        ids[row, start : start + more] = new[row, :more]
        counts[row, 0] += more
    return mx.array(ids), mx.array(counts)


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
    """The scripted target, and a drafter for texts like its replies."""
    target = ForcedTarget(Mind(backend, vocab_size), context)
    return ForcedPair(target, ForcedDrafter(backend, vocab_size, block))
