"""What every route needs, made once by ``build``: collaborators and facts about the model."""

from dataclasses import dataclass, field

from dflash_serve.engine.client import EngineClient
from dflash_serve.engine.errors import EngineUnavailable
from dflash_serve.engine.types import SamplingParams
from dflash_serve.server.drafting import DrafterSwitch
from dflash_serve.server.grammars import Grammars
from dflash_serve.server.recording import Recorder
from dflash_serve.server.settings import Settings
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.table import ThinkingSwitch
from dflash_serve.text.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The one model served, as the HTTP side sees it.

    ``sampling`` holds the defaults for requests that leave a parameter out.
    ``created`` is a Unix time in seconds. ``max_context`` is what was asked for; the engine may
    hold less. ``vocab_size`` is the number of logits.
    """

    id: str
    created: int
    max_context: int
    vocab_size: int
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=1.0))
    stop_tokens: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ServerContext:
    """``recorder`` is None unless the operator asked to record.

    ``thinking``: how the chat template switches reasoning, None if it cannot.
    """

    client: EngineClient
    tokenizer: ChatTokenizer
    settings: Settings
    model: ModelCard
    drafting: DrafterSwitch
    markup: Markup
    thinking: ThinkingSwitch | None
    grammars: Grammars
    recorder: Recorder | None = None

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together: the engine's, once it has been loaded."""
        try:
            return self.client.max_context
        except EngineUnavailable:
            return self.model.max_context
