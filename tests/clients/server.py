"""A server over the forced pair: the real engine, scheduler, grammars, text and doors.

``python -m tests.clients.server DIRECTORY [PORT]`` trains the vocabulary into DIRECTORY.
"""

import asyncio
import logging
import sys
import time
from pathlib import Path

from dflash_serve.compose.cards import ModelCard
from dflash_serve.compose.drafting import DrafterCard, DrafterRefused, DrafterSwitch
from dflash_serve.compose.text import load_text
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.commands import Loaded
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.server.app import create_app
from dflash_serve.server.context import ServerContext, server_context
from dflash_serve.server.lifecycle import bind, run
from dflash_serve.server.settings import Settings
from dflash_serve.text.tokenizer import ChatTokenizer
from tests.clients.forced import forced_pair
from tests.clients.vocabulary import SIZE, save_vocabulary

ROOT = Path(__file__).parents[2]
MODEL = "forced"
CONTEXT = 24576
BLOCK = 8
SLOTS = 8


def main(directory: Path, port: int) -> None:
    """Serve until a signal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    sources = sorted([*ROOT.glob("dflash_serve/**/*.py"), *ROOT.glob("docs/*.md")])
    save_vocabulary(directory, [source.read_text() for source in sources])
    tokenizer = ChatTokenizer.load(directory)
    settings = Settings(port=port, served_model_name=MODEL, max_batch=SLOTS, drain_timeout=5.0)
    engine = AsyncEngine(lambda: load(tokenizer))
    listener = bind(settings)
    run(
        create_app(context(engine, directory, tokenizer, settings)),
        engine,
        settings,
        listener,
        banner=f"serving {MODEL} on http://127.0.0.1:{listener.getsockname()[1]}/v1",
        reload=reload,
    )


def context(
    engine: AsyncEngine, directory: Path, tokenizer: ChatTokenizer, settings: Settings
) -> ServerContext:
    """What ``build`` makes for a pair on disk."""
    ends = (tokenizer.backend.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>"))
    model = ModelCard(
        id=MODEL,
        created=int(time.time()),
        max_context=CONTEXT,
        vocab_size=SIZE,
        stop_tokens=frozenset(ends),
    )
    text = load_text(settings, directory, model)
    drafting = DrafterSwitch(DrafterCard("scripted", BLOCK), no_other_drafter)
    return server_context(engine, settings, model, text, drafting)


def load(tokenizer: ChatTokenizer) -> Loaded:
    """The pair reads its caches on the host, so rounds run op by op."""
    pair = forced_pair(tokenizer.backend, SIZE, CONTEXT, BLOCK)
    runner = DeviceRunner(pair.target, pair.drafter, BLOCK, compiled=False)
    config = EngineConfig(max_batch=SLOTS, max_context=CONTEXT, block_size=BLOCK)
    return Loaded(runner, config)


async def no_other_drafter(name: str) -> DrafterCard:
    raise DrafterRefused(f"there is no drafter {name}")


async def reload() -> None:
    await asyncio.sleep(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
