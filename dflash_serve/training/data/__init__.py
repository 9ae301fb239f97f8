"""Training data: rows of prompts in, exact token sequences with loss spans out."""

from dflash_serve.training.data.answers import (
    Answer,
    AnswerFile,
    read_answers,
    read_origin,
    stream_answers,
    usable,
)
from dflash_serve.training.data.errors import DataError
from dflash_serve.training.data.origin import (
    describe,
    describe_changes,
    file_digest,
    tokenizer_fingerprint,
)

__all__ = [
    "Answer",
    "AnswerFile",
    "DataError",
    "describe",
    "describe_changes",
    "file_digest",
    "read_answers",
    "read_origin",
    "stream_answers",
    "tokenizer_fingerprint",
    "usable",
]
