"""From directories to a runner: what the options leave of its limits, and what is refused."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dflash_serve.adapters.base import AdapterError
from dflash_serve.compose.loading import load, load_pair, new_drafter
from dflash_serve.compose.options import EngineOptions, OptionsError
from dflash_serve.engine.commands import Loaded
from dflash_serve.engine.runner import DeviceRunner
from tests.tiny import write_drafter, write_target

OWN_CONTEXT = 512


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def drafter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drafter(tmp_path_factory.mktemp("drafter"))


@contextmanager
def loading(options: EngineOptions, target: Path, drafter: Path | None) -> Iterator[Loaded]:
    loaded = load(options, target, drafter)
    assert isinstance(loaded.runner, DeviceRunner)
    with closing(loaded.runner):
        yield loaded


def test_the_limits_are_those_of_the_options(target: Path, drafter: Path) -> None:
    options = EngineOptions(max_batch=3, max_queue=5, prefill_chunk=64, block_size=4)
    with loading(options, target, drafter) as loaded:
        config = loaded.config
        assert (config.max_batch, config.max_queue, config.prefill_chunk) == (3, 5, 64)
        assert (config.block_size, config.max_context) == (4, OWN_CONTEXT)


def test_without_a_drafter_decoding_is_plain(target: Path) -> None:
    with loading(EngineOptions(), target, None) as loaded:
        assert loaded.config.block_size == 1


def test_the_memory_limit_bounds_the_context(target: Path, drafter: Path) -> None:
    with loading(EngineOptions(max_context=100), target, drafter) as loaded:
        assert loaded.config.max_context == 100
        takes = loaded.runner.bytes_for
        block = loaded.config.block_size
        room, least = takes(192), takes(64 + block)
    with loading(EngineOptions(memory_limit=room), target, drafter) as loaded:
        assert loaded.config.max_context == 192 - block
    with loading(EngineOptions(memory_limit=1000 * room), target, drafter) as loaded:
        assert loaded.config.max_context == OWN_CONTEXT
    small = EngineOptions(memory_limit=least - 1)
    with pytest.raises(OptionsError, match=rf"--memory-limit is {least - 1} bytes, .* {least}$"):
        load(small, target, drafter)


def test_halves_that_do_not_fit_are_refused(target: Path, tmp_path: Path) -> None:
    wrong = write_drafter(tmp_path, hidden_size=32)
    with pytest.raises(AdapterError, match="hidden_size is 32, target hidden_size is 64"):
        load_pair(target, wrong)


def test_a_new_drafter_comes_loaded_for_the_target_that_runs(target: Path, drafter: Path) -> None:
    with loading(EngineOptions(), target, None) as loaded:
        new = new_drafter(loaded.runner, drafter, 8)
        assert (new.block_size, new.drafter is None) == (8, False)
        assert new_drafter(loaded.runner, None, 1).drafter is None
