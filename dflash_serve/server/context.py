"""What requests are answered with, made once: collaborators and facts about the model."""

from dataclasses import dataclass

from dflash_serve.compose.cards import ModelCard
from dflash_serve.compose.drafting import DrafterSwitch
from dflash_serve.compose.text import ModelText
from dflash_serve.engine.client import EngineClient
from dflash_serve.engine.errors import EngineUnavailable
from dflash_serve.server.grammars import Grammars
from dflash_serve.server.handling import Facts
from dflash_serve.server.recording import Recorder
from dflash_serve.server.settings import Settings
from dflash_serve.server.workers import Workers
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.table import ThinkingSwitch
from dflash_serve.text.tokenizer import ChatTokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContext:
    """What it takes to begin a request and to read its answer. Knows nothing of HTTP.

    ``thinking``: how the chat template switches reasoning, None if it cannot. ``seed``: for
    requests without one; None draws a fresh one. ``recorder`` is None unless the operator asked
    to record.
    """

    client: EngineClient
    tokenizer: ChatTokenizer
    model: ModelCard
    drafting: DrafterSwitch
    markup: Markup
    thinking: ThinkingSwitch | None
    grammars: Grammars
    seed: int | None = None
    recorder: Recorder | None = None

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together: the engine's, once it has been loaded."""
        try:
            return self.client.max_context
        except EngineUnavailable:
            return self.model.max_context

    @property
    def facts(self) -> Facts:
        """What the handling of request bodies needs of this."""
        return Facts(
            model=self.model.id,
            vocab_size=self.model.vocab_size,
            max_context=self.model.max_context,
            sampling=self.model.sampling,
            seed=self.seed,
            tokenizer=self.tokenizer,
            markup=self.markup,
            thinking=self.thinking,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext(ModelContext):
    """What every route needs. ``workers`` handle large bodies; without them, threads do."""

    settings: Settings
    workers: Workers | None = None


def server_context(
    client: EngineClient,
    settings: Settings,
    model: ModelCard,
    text: ModelText,
    drafting: DrafterSwitch,
    recorder: Recorder | None = None,
) -> ServerContext:
    """The context of a server for ``model``, whose text is read and written as ``text`` says."""
    return ServerContext(
        client=client,
        tokenizer=text.tokenizer,
        model=model,
        drafting=drafting,
        markup=text.markup,
        thinking=text.thinking,
        grammars=Grammars(text.compiler),
        seed=settings.seed,
        recorder=recorder,
        settings=settings,
    )
