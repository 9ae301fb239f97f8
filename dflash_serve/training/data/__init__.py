"""Training data: rows of prompts in, exact token sequences with loss spans out."""

from dflash_serve.training.data.answers import (
    Answer,
    AnswerFile,
    AnswerSet,
    read_answers,
    read_origin,
    read_set,
    stream_answers,
    usable,
)
from dflash_serve.training.data.errors import DataError
from dflash_serve.training.data.origin import (
    Part,
    check_origins,
    describe,
    describe_changes,
    describe_parts,
    file_digest,
    tokenizer_fingerprint,
    vocabulary_fingerprint,
)

__all__ = [
    "Answer",
    "AnswerFile",
    "AnswerSet",
    "DataError",
    "Part",
    "check_origins",
    "describe",
    "describe_changes",
    "describe_parts",
    "file_digest",
    "read_answers",
    "read_origin",
    "read_set",
    "stream_answers",
    "tokenizer_fingerprint",
    "usable",
    "vocabulary_fingerprint",
]
