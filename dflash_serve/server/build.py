"""Composition root: the only module that sees all rooms. Settings in, a running server out."""

import asyncio
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dflash_serve
from dflash_serve.adapters.base import AdapterError
from dflash_serve.adapters.checkpoint import (
    fingerprint,
    read_config,
    read_generation_config,
    resolve,
    stop_token_ids,
)
from dflash_serve.adapters.loading import load_drafter, load_target, on_cpu, read_drafter_config
from dflash_serve.adapters.pairs import Pair, find_pair
from dflash_serve.engine.admission import context_under
from dflash_serve.engine.async_client import AsyncEngine
from dflash_serve.engine.block_policy import CPU_VERIFY_TOKENS
from dflash_serve.engine.commands import LaneRunner, Loaded, NewDrafter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.grammar import GrammarCompiler
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import SamplingParams
from dflash_serve.kernels import cpu_blas
from dflash_serve.server.app import create_app
from dflash_serve.server.context import ModelCard, ServerContext
from dflash_serve.server.drafting import Change, DrafterCard, DrafterRefused, DrafterSwitch
from dflash_serve.server.grammars import Grammars
from dflash_serve.server.lifecycle import NOT_STARTED, Failure, bind, leave, run
from dflash_serve.server.recording import Recorder, Segments
from dflash_serve.server.settings import Settings, SettingsError
from dflash_serve.text.parsers import table
from dflash_serve.text.parsers.base import Markup
from dflash_serve.text.parsers.lark import special_ids
from dflash_serve.text.tokenizer import ChatTokenizer

_log = logging.getLogger("dflash_serve")
_DEMO = Path(dflash_serve.__file__).parent / "demo"
DEMO_NAME = "dflash-demo"
_REFUSALS = (AdapterError, SettingsError, ValueError, OSError)
"""What names, checkpoints and options that cannot be used raise; each is one line for the user."""


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop.

    Exit code: 0 drained, 2 could not start, 3 the engine failed.
    """
    _start_logging(settings.log_level)
    try:
        target, drafter = checkpoints(settings)
        model = model_card(settings, target)
        drafting = drafter_card(settings, drafter)
        tokenizer = ChatTokenizer.load(target)
        markup = choose_markup(settings, tokenizer)
        listener = bind(settings)
        recorder = _recorder(settings, target, model)
    except _REFUSALS as error:
        return end(Failure.of(error, NOT_STARTED))
    engine = AsyncEngine(lambda: load(settings, target, drafter))
    switch = DrafterSwitch(drafting, drafter_change(settings, engine))
    grammars = Grammars(grammar_compiler(tokenizer, model))
    grammars.warm_up()
    thinking = table.thinking_switch(tokenizer.template)
    context = ServerContext(
        engine, tokenizer, settings, model, switch, markup, thinking, grammars, recorder
    )
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


def checkpoints(settings: Settings) -> tuple[Path, Path | None]:
    """Directories of target and drafter; None without speculation.

    Raises:
        AdapterError: a name that leads nowhere, or no published drafter for the target.
    """
    pair = None if settings.target is None else find_pair(settings.target)
    if settings.target is None:
        target = _DEMO / "target"
    elif pair is not None and "/" not in settings.target and not Path(settings.target).exists():
        target = resolve(pair.target)
    else:
        target = resolve(settings.target)
    return target, _drafter_directory(settings, pair)


def _drafter_directory(settings: Settings, pair: Pair | None) -> Path | None:
    if settings.drafter == "none" or settings.speculation == "off":
        return None
    if settings.drafter != "auto":
        return resolve(settings.drafter)
    if settings.target is None:
        return _DEMO / "drafter"
    if pair is None:
        raise AdapterError(
            f"no published drafter is known for {settings.target}: give --drafter PATH-or-ID, "
            "or --drafter none for plain decoding"
        )
    return resolve(pair.drafter)


def model_card(settings: Settings, target: Path) -> ModelCard:
    """What clients are told of the model, from the checkpoints' small files alone."""
    config = read_config(target)
    generation = read_generation_config(target)
    own_context = int(config.get("max_position_embeddings", 0))
    if own_context and settings.max_context > own_context:
        raise SettingsError(
            f"--max-context is {settings.max_context}, but the model's context is {own_context}"
        )
    if not own_context and not settings.max_context:
        raise SettingsError(f"{target} does not say max_position_embeddings: give --max-context")
    default_name = DEMO_NAME if settings.target is None else settings.target
    vocab_size = int((config.get("text_config") or config).get("vocab_size", 0))
    return ModelCard(
        id=settings.served_model_name or default_name,
        created=int(time.time()),
        max_context=settings.max_context or own_context,
        vocab_size=vocab_size,
        sampling=_default_sampling(generation),
        # an id that the model has no logit for never comes
        stop_tokens=frozenset(
            id_ for id_ in stop_token_ids(target) if id_ < vocab_size or not vocab_size
        ),
    )


def grammar_compiler(tokenizer: ChatTokenizer, model: ModelCard) -> GrammarCompiler:
    """What compiles grammars over the model's tokens; it reads the vocabulary when first used."""
    ends = sorted(model.stop_tokens)
    return GrammarCompiler(tokenizer.backend.to_str(), model.vocab_size, ends)


def choose_markup(settings: Settings, tokenizer: ChatTokenizer) -> Markup:
    """How the model writes reasoning and tool calls: as its template shows, or as asked for.

    Raises:
        SettingsError: a parser that there is not, or two that cannot go together.
    """
    chosen = {
        name: None if value == "auto" else value
        for name, value in (
            ("tool", settings.tool_parser),
            ("reasoning", settings.reasoning_parser),
        )
    }
    try:
        markup = table.detect(
            tokenizer.template,
            tokenizer.added_tokens,
            tools=chosen["tool"],
            reasoning=chosen["reasoning"],
        )
    except ValueError as error:
        given = [f"--{name}-parser" for name, value in chosen.items() if value is not None]
        raise SettingsError(f"{', '.join(given)}: {error}") from error
    return markup.with_special(special_ids(markup.markers, tokenizer.backend))


def drafter_card(settings: Settings, drafter: Path | None) -> DrafterCard:
    """What clients are told of a drafter, from its small files and the ends of its weights."""
    if drafter is None:
        return DrafterCard()
    block = block_size(settings, drafter)
    return DrafterCard(_drafter_name(settings, drafter), block, fingerprint(drafter))


def drafter_change(settings: Settings, engine: AsyncEngine) -> Change:
    """How another drafter gets into the running ``engine``: found here, loaded on its thread."""

    async def change(name: str) -> DrafterCard:
        if settings.speculation == "off":
            raise DrafterRefused("the server runs with --speculation off: it has no use for one")
        engine.require_ready()
        try:
            path, card = await asyncio.to_thread(_find_drafter, settings, name)
            await engine.swap(lambda runner: new_drafter(runner, path, card.block_size))
        except (*_REFUSALS, RuntimeError) as error:  # what MLX raises where memory does not suffice
            raise DrafterRefused(" ".join(str(error).split())) from error
        return card

    return change


def _find_drafter(settings: Settings, name: str) -> tuple[Path | None, DrafterCard]:
    wanted = replace(settings, drafter=name)
    path = _drafter_directory(wanted, None if wanted.target is None else find_pair(wanted.target))
    return path, drafter_card(wanted, path)


def new_drafter(runner: LaneRunner, path: Path | None, block_size: int) -> NewDrafter:
    """The evaluated weights of the drafter at ``path``, for the target that ``runner`` runs."""
    assert isinstance(runner, DeviceRunner)
    drafter = None if path is None else load_drafter(path, runner.target)
    return NewDrafter(drafter, block_size)


def block_size(settings: Settings, drafter: Path | None) -> int:
    """Tokens verified per row and round: 1 without a drafter, else as asked or as it advises."""
    if drafter is None:
        return 1
    config = read_drafter_config(drafter)
    if settings.block_size > config.block_size:
        raise SettingsError(
            f"--block-size is {settings.block_size}, but the drafter was trained "
            f"with {config.block_size}"
        )
    return settings.block_size or config.runtime_block_size


def load(settings: Settings, target_path: Path, drafter_path: Path | None) -> Loaded:
    """Weights onto the device, and what the engine may take of it."""
    target = load_target(target_path)
    drafter = None if drafter_path is None else load_drafter(drafter_path, target)
    block = block_size(settings, drafter_path)
    runner = DeviceRunner(target, drafter, block)
    wanted = settings.max_context or target.max_context
    config = EngineConfig(
        max_batch=settings.max_batch,
        max_queue=settings.max_queue,
        max_context=context_under(settings.memory_limit, runner.bytes_for, wanted, block),
        prefill_chunk=settings.prefill_chunk,
        block_size=block,
        verify_tokens=CPU_VERIFY_TOKENS if on_cpu() else 0,
        memory_limit=settings.memory_limit,
    )
    _report_matmul()
    return Loaded(runner, config)


def _recorder(settings: Settings, target: Path, model: ModelCard) -> Recorder | None:
    """Take the directory for records, and say so: whoever reads the log knows what is kept."""
    if settings.record is None:
        return None
    header = {
        "format": "dflash-serve records",
        "target": fingerprint(target),
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


def _report_matmul() -> None:
    status = cpu_blas.status()
    if status.state is cpu_blas.CpuBlasState.LOADED:
        _log.info("CPU matmul: %s, %d thread(s), row-invariant", status.isa, status.threads)


def _default_sampling(generation: dict[str, Any]) -> SamplingParams:
    """The checkpoint's own defaults; OpenAI's (temperature 1) where it has none."""
    if generation.get("do_sample") is False:
        return SamplingParams(temperature=0.0)
    defaults = SamplingParams(temperature=1.0)
    known = {
        name: type(getattr(defaults, name))(generation[name])
        for name in ("temperature", "top_p", "top_k", "min_p")
        if generation.get(name) is not None
    }
    return replace(defaults, **known)


def _drafter_name(settings: Settings, drafter: Path) -> str:
    if settings.drafter != "auto":
        return settings.drafter
    return f"{DEMO_NAME}-drafter" if settings.target is None else drafter.name


def _banner(model: ModelCard, drafter: DrafterCard, address: tuple[Any, ...]) -> str:
    host, port = address[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"serving {model.id} ({drafter}) on {where}/v1"
