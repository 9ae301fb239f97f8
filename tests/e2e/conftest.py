"""A random pair with a tokenizer on disk, and servers that several tests share."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.copying import write_copying_pair
from tests.e2e.server import PairPaths, ServerProcess

Start = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairPaths:
    return write_copying_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def endless_pair(pair: PairPaths, tmp_path_factory: pytest.TempPathFactory) -> PairPaths:
    """The same pair without stop tokens: an answer takes as long as ``max_tokens`` says."""
    target = tmp_path_factory.mktemp("endless") / "target"
    shutil.copytree(pair.target, target)
    (target / "generation_config.json").write_text(json.dumps({"eos_token_id": []}))
    return PairPaths(target, pair.drafter)


@pytest.fixture(scope="session")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start servers that live until the session ends."""
    yield from _starter(tmp_path_factory.mktemp("servers"))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that live until the test ends."""
    yield from _starter(tmp_path)


@pytest.fixture(scope="session")
def server(pair: PairPaths, start_shared: Start) -> ServerProcess:
    """It drafts whatever that costs: the pair is so small that plain decoding may be faster."""
    return start_shared(*pair.options(), "--port", "0", "--speculation", "always")


@pytest.fixture(scope="session")
def plain_server(pair: PairPaths, start_shared: Start) -> ServerProcess:
    return start_shared(*pair.options(), "--port", "0", "--speculation", "off")


@pytest.fixture(scope="session")
def url(server: ServerProcess) -> str:
    """The speculating server."""
    return server.ready()


@pytest.fixture(scope="session")
def plain_url(plain_server: ServerProcess) -> str:
    """The same target, decoding plainly."""
    return plain_server.ready()


def _starter(directory: Path) -> Iterator[Start]:
    started: list[ServerProcess] = []

    def start(*options: str, **more: str) -> ServerProcess:
        started.append(ServerProcess(directory / f"{len(started)}.log", *options, **more))
        return started[-1]

    yield start
    for process in started:
        process.stop()
