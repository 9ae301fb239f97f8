"""Drafters swapped in a serving process, over its socket: streams go on, no character changes."""

import json
import signal
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from dflash_serve.adapters.checkpoint import fingerprint
from dflash_serve.training.data.answers import read_answers, read_origin
from tests.e2e.conftest import Start
from tests.e2e.copying import MASK, VOCAB
from tests.e2e.server import PairPaths, ServerProcess, wait
from tests.e2e.test_openai_client import GREEDY, SEEDED, streamed, whole
from tests.tiny import DRAFTER, write_drafter

KEY = "secret"
ADMIN = "other secret"
PROMPTS = ["hello", "The quick brown fox", "again and again " * 9]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "kept"


@pytest.fixture(scope="module")
def process(pair: PairPaths, start_shared: Start, kept: Path) -> ServerProcess:
    options = ["--port", "0", "--api-key", KEY, "--admin-key", ADMIN, "--record", str(kept)]
    return start_shared(*pair.options(), *options)


@pytest.fixture(scope="module")
def admin(process: ServerProcess) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {ADMIN}"}
    with httpx.Client(base_url=process.ready(), headers=headers, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def client(process: ServerProcess) -> Iterator[openai.OpenAI]:
    url = f"{process.ready()}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, timeout=120, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def drafters(pair: PairPaths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names by which drafters are swapped in: the pair's own, random ones, none."""
    directory = tmp_path_factory.mktemp("others")
    fits: dict[str, Any] = {
        "vocab_size": VOCAB,
        "dflash_config": DRAFTER["dflash_config"] | {"mask_token_id": MASK},
    }
    random = write_drafter(directory / "random", **fits)
    short = write_drafter(directory / "short", seed=4, **fits, block_size=3)
    wrong = write_drafter(directory / "wrong", **fits | {"vocab_size": 96})
    return {
        "own": str(pair.drafter),
        "random": str(random),
        "short": str(short),
        "none": "none",
        "wrong": str(wrong),
    }


def swap(admin: httpx.Client, name: str) -> httpx.Response:
    return admin.post("/admin/drafter", json={"drafter": name})


def test_streams_go_on_while_drafters_come_and_go(
    client: openai.OpenAI, admin: httpx.Client, plain_url: str, drafters: dict[str, str]
) -> None:
    """Greedy and with a seed, several at once, against plain decoding."""
    asked = [(prompt, options) for prompt in PROMPTS for options in (GREEDY, SEEDED)]
    length = {"max_tokens": 90}
    with openai.OpenAI(base_url=f"{plain_url}/v1", api_key="-", timeout=120) as plain:
        want = [whole(plain, prompt, **options, **length) for prompt, options in asked]
    done = threading.Event()
    blocks: list[int] = []

    def swap_on() -> None:
        while not done.is_set():
            for name in ("random", "own", "short", "none"):
                answer = swap(admin, drafters[name])
                assert answer.status_code == 200, answer.text
                blocks.append(answer.json()["block_size"])

    with ThreadPoolExecutor(7) as pool:
        swapping = pool.submit(swap_on)
        try:
            streams = [pool.submit(streamed, client, p, **o, **length) for p, o in asked]
            assert [stream.result() for stream in streams] == want
        finally:
            done.set()
        swapping.result()
    assert len(blocks) >= 4
    assert set(blocks) == {16, 8, 3, 1}
    swap(admin, drafters["own"])


def test_a_drafter_that_does_not_fit_is_refused_and_the_old_one_goes_on(
    client: openai.OpenAI, admin: httpx.Client, drafters: dict[str, str]
) -> None:
    swap(admin, drafters["own"])
    before = whole(client, "hello", **GREEDY)
    for name, text in ((drafters["wrong"], "vocab_size is 96"), ("./nowhere", "no directory")):
        answer = swap(admin, name)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "drafter"
        assert text in answer.json()["error"]["message"]
        assert "\n" not in answer.json()["error"]["message"]
    assert admin.get("/admin/drafter").json()["drafter"] == drafters["own"]
    assert whole(client, "hello", **GREEDY) == before


def test_a_hangup_goes_back_to_the_configured_drafter(
    admin: httpx.Client, process: ServerProcess, drafters: dict[str, str]
) -> None:
    swap(admin, drafters["random"])
    assert admin.get("/health").json()["drafter"] == drafters["random"]
    process.process.send_signal(signal.SIGHUP)
    wait(lambda: admin.get("/health").json()["drafter"] == drafters["own"], 60)
    assert admin.get("/health").json()["status"] == "ready"


def test_what_was_served_is_on_disk(
    client: openai.OpenAI, process: ServerProcess, pair: PairPaths, kept: Path
) -> None:
    """The last request's ids, its stop token included, privately and named by its target."""

    def lines() -> list[str]:
        return [line for path in kept.glob("records-*") for line in path.read_text().splitlines()]

    before = len(lines())
    _, reason = whole(client, "The quick brown fox", max_tokens=60, **GREEDY)
    wait(lambda: len(lines()) > max(1, before), 60)
    (path,) = kept.glob("records-*.jsonl")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_origin(path)["target"] == fingerprint(pair.target)
    assert "recording every finished request" in process.log
    assert len(read_answers(path)) == len(lines()) - 1
    row = json.loads(lines()[-1])
    assert row["finish"] == reason
    assert (row["answer"][-1] in (305, 307)) is (reason == "stop")
    assert row["prompt_tokens"] == len(row["prompt"])
    assert row["accepted"] <= row["drafted"]
