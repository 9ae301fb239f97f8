"""Settings in, a running HTTP server out."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from dflash_serve.compose.cards import ModelCard, drafter_card, model_card
from dflash_serve.compose.directories import REFUSALS, checked_checkpoints
from dflash_serve.compose.drafting import DrafterCard, DrafterSwitch
from dflash_serve.compose.loading import load
from dflash_serve.compose.swapping import drafter_change
from dflash_serve.compose.text import load_text
from dflash_serve.compose.trees import check_trees
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.server.app import create_app
from dflash_serve.server.context import server_context
from dflash_serve.server.lifecycle import NOT_STARTED, Failure, bind, leave, run
from dflash_serve.server.recording import Recorder, Segments
from dflash_serve.server.settings import Settings
from dflash_serve.server.workers import Workers

_log = logging.getLogger("dflash_serve")


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop.

    Exit code: 0 drained, 2 could not start, 3 the engine failed.
    """
    _start_logging(settings.log_level)
    try:
        target, drafter = checked_checkpoints(settings)
        model = model_card(settings, target, settings.served_model_name)
        drafting = drafter_card(settings, drafter)
        check_trees(settings, target, drafting.block_size)
        text = load_text(settings, target, model)
        listener = bind(settings)
        recorder = _recorder(settings, model)
    except REFUSALS as error:
        return end(Failure.of(error, NOT_STARTED))
    engine = AsyncEngine(lambda: load(settings, target, drafter))
    switch = DrafterSwitch(drafting, drafter_change(settings, engine))
    context = server_context(engine, settings, model, text, switch, recorder)
    context.grammars.warm_up()
    workers = Workers(context.facts)
    workers.warm_up()
    context = replace(context, workers=workers)
    try:
        failure = run(
            create_app(context),
            engine,
            settings,
            listener,
            banner=_banner(model, drafting, listener.getsockname()),
            reload=lambda: switch.reload(settings.drafter),
        )
    finally:
        workers.close()
        if recorder is not None:
            recorder.close()
    return end(failure)


def end(failure: Failure | None) -> int:
    """Say on one line why the server ends by itself, if it does; the exit code.

    A server that has served does not return: threads of it may still run.
    """
    if failure is None:
        leave(0)
    print(f"dflash-serve: error: {failure.reason}", file=sys.stderr)  # noqa: T201
    if failure.code != NOT_STARTED:
        leave(failure.code)
    return failure.code


def _recorder(settings: Settings, model: ModelCard) -> Recorder | None:
    """Take the directory for records, and say so: whoever reads the log knows what is kept."""
    if settings.record is None:
        return None
    header = {
        "format": "dflash-serve records",
        "target": model.fingerprint,
        "model": model.id,
        "prompts": settings.record_prompts,
    }
    directory = Path(settings.record).expanduser()
    segments = Segments(directory, settings.record_limit, header)
    segments.open()
    recorder = Recorder(segments, settings.record_prompts)
    recorder.start()
    kept = "prompts and answers as token ids" if settings.record_prompts else "counts, no tokens"
    _log.warning("recording every finished request (%s) in %s", kept, directory)
    return recorder


def _start_logging(level: str) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("dflash_serve").setLevel(level.upper())
    logging.captureWarnings(True)


def _banner(model: ModelCard, drafter: DrafterCard, address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"serving {model.id} ({drafter}) on {where}/v1"
