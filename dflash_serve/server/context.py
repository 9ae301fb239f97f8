"""What every route needs, made once by ``build``: collaborators and facts about the model."""

from dataclasses import dataclass, field

from dflash_serve.engine.client import EngineClient
from dflash_serve.engine.types import SamplingParams
from dflash_serve.server.settings import Settings
from dflash_serve.server.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The one model served, as the HTTP side sees it.

    ``sampling`` holds the defaults for requests that leave a parameter out.
    ``created`` is a Unix time in seconds.
    """

    id: str
    created: int
    max_context: int
    drafter: str | None = None
    block_size: int = 1
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=1.0))
    stop_tokens: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ServerContext:
    client: EngineClient
    tokenizer: ChatTokenizer
    settings: Settings
    model: ModelCard
