"""The text side of serving inside a measured step: tokens become text as the server makes it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from dflash_serve.engine.types import TokenChunk
from dflash_serve.text.stream import Detokenizer
from dflash_serve.text.token_text import TokenText


class TextSink:
    """Detokenises every chunk. Owner of one `Detokenizer` per live request."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens = TokenText(tokenizer)
        self._streams: dict[str, Detokenizer] = {}

    @classmethod
    def load(cls, directory: Path | None) -> "TextSink | None":
        """Over the directory's tokenizer.json; None where there is none."""
        path = directory / "tokenizer.json" if directory else None
        return cls(_tokenizer(path)) if path and path.exists() else None

    def __call__(self, chunks: Sequence[TokenChunk]) -> None:
        for chunk in chunks:
            stream = self._streams.setdefault(chunk.request_id, Detokenizer(self._tokens))
            for token in chunk.tokens:
                stream.push(token)
            if chunk.finish is not None:
                stream.flush()
                del self._streams[chunk.request_id]


@cache
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))
