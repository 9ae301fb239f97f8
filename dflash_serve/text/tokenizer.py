"""Messages -> prompt token ids by the model's chat template. Text never becomes a control token.

Knows nothing of HTTP or engines. Safe to call from several threads.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError as JinjaError
from jinja2 import TemplateSyntaxError
from tokenizers import Encoding, Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from dflash_serve.text.errors import TemplateError, TextTooLong
from dflash_serve.text.lengths import bytes_per_token
from dflash_serve.text.parsers.base import ToolSpec
from dflash_serve.text.token_text import TokenText

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
"""Supplementary private-use characters: no normaliser, template or vocabulary touches them."""
_LAST_TURN = 256
"""Tokens of a prompt's end among which the assistant's turn begins."""


class ChatTokenizer:
    """A tokenizer with its chat template.

    ``<|im_end|>`` and its like, typed by a user, stay text: each occurrence in a message becomes
    one private-use character before rendering. Control tokens in the rendered text are then the
    template's own, and the stretches between them that hold such characters get the text back and
    are encoded by a twin of the tokenizer that knows no control tokens.

    One that was loaded is pickled as its directory.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._templates = tokenizer
        self._directory: Path | None = None
        self.backend: Tokenizer = tokenizer.backend_tokenizer
        self.token_text = TokenText(self.backend)
        # runs of spaces and line ends that some vocabularies add are ordinary text
        controls = {
            token: entry
            for token, entry in self.backend.get_added_tokens_decoder().items()
            if not entry.content.isspace()
        }
        self._controls = frozenset(controls)
        self._special = frozenset(token for token, entry in controls.items() if entry.special)
        self._names = _any_of(entry.content for entry in controls.values())
        self._normalized_names = _any_of(e.content for e in controls.values() if e.normalized)
        self._plain = _without(self._controls, self.backend)
        self._longest = bytes_per_token(self.backend)
        self._reserved = frozenset(
            [*inspect.signature(tokenizer.apply_chat_template).parameters, "messages"]
        ).union(tokenizer.special_tokens_map)

    @classmethod
    def load(cls, directory: Path) -> "ChatTokenizer":
        """Read a local directory in Hugging Face layout; never the network, never foreign code.

        Raises:
            ValueError: no fast tokenizer can be read from there, or its template is no template.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except Exception as error:  # tokenizers raises nothing narrower
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{directory} has no readable tokenizer: {reason}") from error
        if not tokenizer.is_fast:
            raise ValueError(f"{directory} has no fast tokenizer (tokenizer.json)")
        made = cls(tokenizer)
        made._check_template(directory)
        made._directory = directory
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        if self._directory is None:
            raise TypeError("a tokenizer that was not loaded from a directory cannot be pickled")
        return ChatTokenizer.load, (self._directory,)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
        *,
        tools: Sequence[ToolSpec] = (),
        generation_prompt: bool = True,
        limit: int | None = None,
    ) -> tuple[int, ...]:
        """The prompt, up to where the assistant's answer begins.

        Without ``generation_prompt`` the messages alone, for chats that end with an answer.
        Templates that do not know ``tools`` leave them out. What the template makes is not encoded
        if it cannot have as few as ``limit`` tokens: templates leave text out, so that the messages
        alone do not tell.

        Raises:
            TemplateError: the template refuses the messages or the keyword arguments.
            TextTooLong: the prompt has more than ``limit`` tokens.
        """
        taken = sorted(self._reserved.intersection(template_kwargs))
        if taken:
            message = f"chat_template_kwargs cannot set {', '.join(taken)}"
            raise TemplateError(message, param="chat_template_kwargs")
        functions = [_function(tool) for tool in tools]
        masks = _Masks(json.dumps([messages, template_kwargs, functions], ensure_ascii=False))
        masked = [self._mask_message(message, masks) for message in messages]
        kwargs = self._mask(template_kwargs, self._controls, masks)
        if functions:
            kwargs["tools"] = self._mask(functions, self._controls, masks)
        text = self._render(masked, kwargs, generation_prompt)
        self._check_length(text, limit)
        if not masks:
            return self._ids(text, special=False)
        return tuple(self._replace_masked(text, self._encode(text), masks))

    def encode_raw(self, text: str, *, limit: int | None = None) -> tuple[int, ...]:
        """Text without a template: control tokens in it are read, and one may be put before it.

        Raises:
            TemplateError: the text holds half a surrogate pair.
            TextTooLong: it has more than ``limit`` tokens. Only what is found without encoding.
        """
        self._check_length(text, limit)
        return self._ids(text, special=True)

    def encode_markup(self, text: str) -> tuple[int, ...]:
        """A marker as the model writes it: control tokens in it are read, none is added."""
        return self._ids(text, special=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``, control tokens by name."""
        return self.backend.decode(list(tokens), skip_special_tokens=False)

    def last_turn(self, prompt: Sequence[int], markers: Sequence[str]) -> str:
        """The end of ``prompt`` behind its last control token that is no marker."""
        borders = self._special - self.token_text.ids(markers)
        tail = prompt[-_LAST_TURN:]
        begin = next((at for at in range(len(tail), 0, -1) if tail[at - 1] in borders), 0)
        return self.decode(tail[begin:])

    def _check_length(self, text: str, limit: int | None) -> None:
        if limit is None or self._longest is None:
            return
        least = -(-len(text.encode("utf-8", "surrogatepass")) // self._longest)
        if least > limit:
            raise TextTooLong(least)

    def _ids(self, text: str, *, special: bool) -> tuple[int, ...]:
        return tuple(_only(self.backend.encode_batch_fast, text, special).ids)

    def _encode(self, text: str) -> Encoding:
        """With the places of the tokens in ``text``, which take time and memory."""
        return _only(self.backend.encode_batch, text, special=False)

    @property
    def template(self) -> str:
        """The chat template's text; of several, all."""
        template = self._templates.chat_template or ""
        return template if isinstance(template, str) else "\n".join(template.values())

    @property
    def added_tokens(self) -> frozenset[str]:
        """The names of tokens that were added to the vocabulary, control tokens among them."""
        entries = self.backend.get_added_tokens_decoder().values()
        return frozenset(entry.content for entry in entries)

    def template_reads(self, name: str) -> bool:
        """Whether the chat template mentions a keyword argument at all."""
        return re.search(rf"\b{re.escape(name)}\b", self.template) is not None

    def _check_template(self, directory: Path) -> None:
        try:
            self.encode_chat([{"role": "user", "content": ""}], {})
        except TemplateError as error:
            # other refusals depend on the messages
            if isinstance(error.__cause__, TemplateSyntaxError):
                reason = " ".join(str(error.__cause__).split())
                raise ValueError(f"{directory} has a broken chat template: {reason}") from error

    def _mask_message(self, message: Mapping[str, Any], masks: "_Masks") -> Mapping[str, Any]:
        # an assistant's own markup (<think>, <tool_call>) is for the template to read
        controls = self._special if message["role"] == "assistant" else self._controls
        masked: Mapping[str, Any] = self._mask(message, controls, masks)
        return masked

    def _mask(self, value: Any, controls: frozenset[int], masks: "_Masks") -> Any:
        if isinstance(value, Mapping):
            return {
                self._mask(key, controls, masks): self._mask(item, controls, masks)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._mask(item, controls, masks) for item in value]
        if not isinstance(value, str):
            return value
        while spans := self._spans(value, controls):
            value = masks.replace(value, spans)
        return value

    def _spans(self, text: str, controls: frozenset[int]) -> list[tuple[int, int]]:
        """Where the tokenizer would see control tokens in ``text``."""
        if not self._suspicious(text):
            return []
        encoding = self._encode(text)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [span for token, span in pairs if token in controls and span[0] < span[1]]

    def _suspicious(self, text: str) -> bool:
        if self._names.search(text):
            return True
        normalizer = self.backend.normalizer
        if normalizer is None or not self._normalized_names.pattern:
            return False
        return self._normalized_names.search(normalizer.normalize_str(text)) is not None

    def _render(
        self, messages: list[Mapping[str, Any]], kwargs: Mapping[str, Any], generation_prompt: bool
    ) -> str:
        try:
            text = self._templates.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generation_prompt, **kwargs
            )
        except (JinjaError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise TemplateError(f"the chat template refuses the messages: {error}") from error
        return str(text)

    def _replace_masked(self, text: str, encoding: Encoding, masks: "_Masks") -> Iterator[int]:
        ids, offsets = encoding.ids, encoding.offsets
        controls = [at for at, token in enumerate(ids) if token in self._controls]
        token, char = 0, 0  # ids[token:at] and text[char:end] lie between two control tokens
        for at in [*controls, len(ids)]:
            last = at == len(ids)
            stretch = text[char : len(text) if last else offsets[at][0]]
            if masks.inside(stretch):
                yield from self._encode_plain(masks.restore(stretch))
            else:
                yield from ids[token:at]
            if not last:
                yield ids[at]
                token, char = at + 1, offsets[at][1]

    def _encode_plain(self, text: str) -> list[int]:
        ids: list[int] = _only(self._plain.encode_batch_fast, text, special=False).ids
        if self._controls.isdisjoint(ids):
            return ids
        # a vocabulary that spells a control token out as one piece: take it apart
        pieces = (self._plain.encode(char, add_special_tokens=False).ids for char in text)
        return [token for piece in pieces for token in piece]


class _Masks:
    """Private-use characters that stand for pieces of one conversation's text."""

    def __init__(self, conversation: str) -> None:
        self._free = _unused_chars(conversation)
        self._chars: dict[str, str] = {}  # piece -> its character
        self._pieces: dict[str, str] = {}  # character -> its piece

    def __bool__(self) -> bool:
        return bool(self._chars)

    def replace(self, text: str, spans: Iterable[tuple[int, int]]) -> str:
        out, begin = [], 0
        for start, end in spans:
            out += [text[begin:start], self._char(text[start:end])]
            begin = end
        return "".join([*out, text[begin:]])

    def inside(self, text: str) -> bool:
        return not self._pieces.keys().isdisjoint(text)

    def restore(self, text: str) -> str:
        return "".join(self._pieces.get(char, char) for char in text)

    def _char(self, piece: str) -> str:
        if piece not in self._chars:
            char = next(self._free, None)
            if char is None:
                raise TemplateError("the messages use up all private-use characters")
            self._chars[piece], self._pieces[char] = char, piece
        return self._chars[piece]


def _only(encode_batch: Callable[..., list[Encoding]], text: str, special: bool) -> Encoding:
    """A batch, even of one text, is encoded without the interpreter lock."""
    try:
        [encoding] = encode_batch([text], add_special_tokens=special)
    except TypeError:
        raise TemplateError("the text holds half a surrogate pair") from None
    return encoding


def _unused_chars(text: str) -> Iterator[str]:
    used = frozenset(text)
    yield from (char for code in _PRIVATE_USE if (char := chr(code)) not in used)


def _function(tool: ToolSpec) -> dict[str, Any]:
    """A tool as chat templates read it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(name) for name in names) or "(?!)")


def _without(controls: frozenset[int], backend: Tokenizer) -> Tokenizer:
    """A copy of ``backend`` to which the names of ``controls`` are ordinary text."""
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [entry for entry in spec["added_tokens"] if entry["id"] not in controls]
    spec["post_processor"] = None
    return Tokenizer.from_str(json.dumps(spec))
