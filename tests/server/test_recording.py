"""Finished requests on disk: what is kept, what never is, and that no request pays for it."""

import asyncio
import contextlib
import json
import logging
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dflash_serve.compose.drafting import DrafterCard, DrafterSwitch
from dflash_serve.compose.options import OptionsError
from dflash_serve.engine.errors import EngineError
from dflash_serve.engine.types import EngineRequest, FinishReason, LogitRules, SamplingParams, Usage
from dflash_serve.server.generation import Generation
from dflash_serve.server.recording import Finished, Recorder, Segments
from dflash_serve.text.tokenizer import ChatTokenizer
from dflash_serve.training.data.answers import read_answers, read_origin
from tests.fakes import FakeEngine, Script, choice, eventually, saying

HEADER = {"target": "f00d"}
LARGE = 10**6


def finished(number: int = 0, tokens: int = 10, **sampling: Any) -> Finished:
    request = EngineRequest(f"r{number}", (number, 1, 2), 50, SamplingParams(**sampling))
    usage = Usage(3, tokens, rounds=4, drafted=28, accepted=5)
    return Finished(request, tuple(range(tokens)), "stop", usage, ("d@1",))


def recorder(directory: Path, limit: int = LARGE, prompts: bool = True) -> Recorder:
    segments = Segments(directory, limit, HEADER)
    segments.open()
    made = Recorder(segments, prompts)
    made.start()
    return made


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("records-*.jsonl"))


def rows(directory: Path) -> list[dict[str, Any]]:
    lines = [line for path in files(directory) for line in path.read_text().splitlines()[1:]]
    return [json.loads(line) for line in lines]


def test_records_are_private_and_read_as_answers(tmp_path: Path) -> None:
    made = recorder(tmp_path / "kept")
    made.add(finished(3))
    made.add(finished(4, temperature=0.7, top_k=5, seed=9))
    made.close()
    (path,) = files(tmp_path / "kept")
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_origin(path) == HEADER
    assert [list(answer.tokens) for answer in read_answers(path)] == [
        [n, 1, 2, *range(10)] for n in (3, 4)
    ]
    assert [answer.spans for answer in read_answers(path)] == [((3, 13),)] * 2
    greedy, sampled = rows(tmp_path / "kept")
    facts = {"rounds": 4, "drafted": 28, "accepted": 5, "drafters": ["d@1"], "finish": "stop"}
    assert greedy.items() >= (facts | {"greedy": True}).items()
    assert "sampling" not in greedy
    assert not sampled["greedy"]
    assert sampled["sampling"] == {
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 5,
        "min_p": 0.0,
        "seed": 9,
    }
    assert greedy["time"] > 1.7e9


def test_without_prompts_only_counts_are_kept(tmp_path: Path) -> None:
    made = recorder(tmp_path / "kept", prompts=False)
    made.add(finished())
    made.close()
    (row,) = rows(tmp_path / "kept")
    assert row.keys() & {"prompt", "answer", "tokens"} == set()
    assert (row["prompt_tokens"], row["answer_tokens"]) == (3, 10)


def test_the_limit_holds_and_the_newest_stay(tmp_path: Path) -> None:
    for start in (0, 500):  # a second run goes on where the first one ended
        made = recorder(tmp_path / "kept", 20_000)
        for number in range(start, start + 500):
            made.add(finished(number))
        made.close()
    kept = [row["prompt"][0] for row in rows(tmp_path / "kept")]
    assert sum(path.stat().st_size for path in files(tmp_path / "kept")) <= 20_000
    assert kept == list(range(1000 - len(kept), 1000))
    assert len(kept) > 40
    assert len(files(tmp_path / "kept")) > 3


def test_a_record_beyond_the_limit_is_left_out(tmp_path: Path) -> None:
    made = recorder(tmp_path / "kept", 2_000)
    made.add(finished(1))
    made.add(finished(2, tokens=2_000))
    made.add(finished(3))
    made.close()
    assert [row["prompt"][0] for row in rows(tmp_path / "kept")] == [1, 3]


def test_a_disk_that_refuses_stops_recording_once_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = recorder(tmp_path / "kept")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))  # writes beyond it: EFBIG
        for number in range(100):
            made.add(finished(number))
        eventually(lambda: not made.active)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for number in range(10_000):  # more than would fit the queue
        made.add(finished(number))
    made.close()
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["recording has stopped" in record.getMessage() for record in errors] == [True]
    assert [row["prompt"][0] for row in rows(tmp_path / "kept")] == list(
        range(len(rows(tmp_path / "kept")))
    )
    assert 0 < len(rows(tmp_path / "kept")) < 100


def test_a_directory_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(OptionsError, match="open to others"):
        Segments(tmp_path, LARGE, HEADER).open()
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionsError, match="--record"):
        Segments(tmp_path / "file", LARGE, HEADER).open()


def test_two_servers_do_not_share_a_directory(tmp_path: Path) -> None:
    first = Segments(tmp_path / "kept", LARGE, HEADER)
    first.open()
    with pytest.raises(OptionsError, match="another server"):
        Segments(tmp_path / "kept", LARGE, HEADER).open()
    first.close()
    second = Segments(tmp_path / "kept", LARGE, HEADER)
    second.open()
    second.close()


def test_a_kill_leaves_whole_lines(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from dflash_serve.engine.types import EngineRequest, Usage
from dflash_serve.server.recording import Finished, Recorder, Segments
segments = Segments(Path(sys.argv[1]), 10**6, {})
segments.open()
recorder = Recorder(segments, True)
recorder.start()
while True:
    recorder.add(Finished(EngineRequest("", (1,), 1), tuple(range(200)), "stop", Usage(), ()))
"""
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "kept")])
    eventually(lambda: sum(path.stat().st_size for path in files(tmp_path / "kept")) > 100_000)
    child.send_signal(signal.SIGKILL)
    child.wait()
    for path in files(tmp_path / "kept"):
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])  # but for a torn last line
    made = recorder(tmp_path / "kept")  # the dead process holds no lock
    made.add(finished(7))
    made.close()
    assert rows(tmp_path / "kept")[-1]["prompt"][0] == 7


class Kept(Recorder):
    """Keeps what it is given in a list."""

    def __init__(self) -> None:
        self.rows: list[Finished] = []

    def add(self, finished: Finished) -> None:
        self.rows.append(finished)


def finish(
    tokenizer: ChatTokenizer,
    script: Callable[[EngineRequest], Script],
    *,
    swap: bool = False,
    **changes: Any,
) -> list[Finished]:
    """What is recorded of a request with two choices and the stop string END."""
    kept = Kept()

    async def change(name: str) -> DrafterCard:
        return DrafterCard(name, 8, "new")

    async def main() -> None:
        switch = DrafterSwitch(DrafterCard("d", 8, "old"), change)
        requests = [EngineRequest(f"r{index}", (5, 6), 100, **changes) for index in range(2)]
        engine = FakeEngine(script)
        choices = [choice(at, one, tokenizer, ["END"]) for at, one in enumerate(requests)]
        made = Generation("name", engine, choices, switch, kept)
        made.start()
        if swap:
            await switch.change_to("d")
        with contextlib.suppress(EngineError):
            async for _ in made.deltas():
                pass
        while engine.live:
            await asyncio.sleep(0)
        for _ in range(10):  # the tasks' last steps
            await asyncio.sleep(0)

    asyncio.run(main())
    return kept.rows


def test_finished_choices_are_recorded_with_their_stop_token(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.backend.encode("hello world", add_special_tokens=False).ids
    rows = finish(tokenizer, saying(tokenizer, "hello world", stop_token=300))
    assert [row.tokens for row in rows] == [(*ids, 300)] * 2
    assert {row.finish for row in rows} == {"stop"}
    assert {row.usage.completion_tokens for row in rows} == {len(ids) + 1}
    assert {row.drafters for row in rows} == {("d@old",)}


def test_a_stop_string_ends_the_record_too(tokenizer: ChatTokenizer) -> None:
    rows = finish(tokenizer, saying(tokenizer, "hello END of it all, again and again"))
    ids = tokenizer.backend.encode("hello END", add_special_tokens=False).ids
    assert [row.tokens for row in rows] == [tuple(ids)] * 2
    assert {row.usage.completion_tokens for row in rows} == {len(ids)}


def test_a_request_that_outlived_a_swap_names_both_drafters(tokenizer: ChatTokenizer) -> None:
    rows = finish(tokenizer, saying(tokenizer, "hello", pause=0.01), swap=True)
    assert {row.drafters for row in rows} == {("d@old", "d@new")}


@pytest.mark.parametrize("end", [FinishReason.ABORTED, FinishReason.ERROR])
def test_what_did_not_finish_is_not_recorded(tokenizer: ChatTokenizer, end: FinishReason) -> None:
    def script(request: EngineRequest) -> Script:
        mine = end if request.id == "r0" else FinishReason.LENGTH
        return Script(((1, 2), (3,)), mine, error="gone")

    rows = finish(tokenizer, script)
    assert [row.request.id for row in rows] in ([], ["r1"])


@pytest.mark.parametrize("forced", [False, True])
def test_tokens_that_are_not_the_models_own_choice_are_not_recorded(
    tokenizer: ChatTokenizer, forced: bool
) -> None:
    rules = LogitRules(presence=1.0 if forced else 0.0)
    rows = finish(tokenizer, saying(tokenizer, "hello"), rules=rules)
    assert len(rows) == (0 if forced else 2)
