"""A server whose device fails on request: the seed of a request says how.

``python -m tests.e2e.failing_server TARGET DRAFTER``. Everything but the runner is the product's.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from dflash_serve.compose.cards import block_size, model_card
from dflash_serve.compose.drafting import DrafterCard, DrafterRefused, DrafterSwitch
from dflash_serve.compose.loading import load_pair
from dflash_serve.compose.text import load_text
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.commands import Loaded
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import StepPlan, StepResult, nothing
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.server.app import create_app
from dflash_serve.server.build import end
from dflash_serve.server.context import server_context
from dflash_serve.server.lifecycle import bind, run
from dflash_serve.server.settings import Settings

MODEL = "tiny"
BROKEN, NO_MEMORY = 1001, 1002
"""Seeds."""
_AT = 30
"""Tokens that the row of such a request holds when its step fails."""


class FailingRunner(DeviceRunner):
    """Raises at the end of a step: by then its caches have been written to."""

    def run(self, plan: StepPlan, meanwhile: Callable[[], None] = nothing) -> StepResult:
        result = super().run(plan, meanwhile)
        for row in plan.decode:
            if row.length > _AT and row.sampling.seed == BROKEN:
                raise ValueError("shapes (3, 4) and (5, 6) at 0x7f")
            if row.length > _AT and row.sampling.seed == NO_MEMORY:
                raise RuntimeError("[malloc] Unable to allocate 1024 bytes.")
        return result


def main(target: Path, drafter: Path) -> int:
    """Serve until a signal or a failure; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings(target=str(target), drafter=str(drafter), port=0, max_batch=2)
    model = model_card(settings, target, MODEL)
    listener = bind(settings)

    def load_failing() -> Loaded:
        block = block_size(settings, drafter)
        runner = FailingRunner(*load_pair(target, drafter), block)
        config = EngineConfig(max_batch=2, max_context=model.max_context, block_size=block)
        return Loaded(runner, config)

    engine = AsyncEngine(load_failing)
    drafting = DrafterSwitch(DrafterCard("drafter", 8), no_other_drafter)
    text = load_text(settings, target, model)
    failure = run(
        create_app(server_context(engine, settings, model, text, drafting)),
        engine,
        settings,
        listener,
        banner=f"serving {MODEL} on http://127.0.0.1:{listener.getsockname()[1]}/v1",
        reload=lambda: drafting.reload("auto"),
    )
    return end(failure)


async def no_other_drafter(name: str) -> DrafterCard:
    raise DrafterRefused(f"there is no drafter {name}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
