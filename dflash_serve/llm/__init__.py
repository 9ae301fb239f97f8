"""The engine without a server: `LLM` and `AsyncLLM`, and what they take, return and raise."""

from dflash_serve.engine.types import Usage
from dflash_serve.llm.asynchronous import AsyncLLM
from dflash_serve.llm.errors import LLMError
from dflash_serve.llm.options import ChatOptions, EngineKeywords, GenerateOptions
from dflash_serve.llm.results import Answer, CallPiece, Choice, Piece, ToolCall
from dflash_serve.llm.synchronous import LLM
from dflash_serve.server.deltas import TokenEntry

__all__ = [
    "LLM",
    "Answer",
    "AsyncLLM",
    "CallPiece",
    "ChatOptions",
    "Choice",
    "EngineKeywords",
    "GenerateOptions",
    "LLMError",
    "Piece",
    "TokenEntry",
    "ToolCall",
    "Usage",
]
