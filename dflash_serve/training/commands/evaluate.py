"""dflash-train eval: what a drafter is worth, on a loaded pair or on a running server."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from dflash_serve import provenance
from dflash_serve.adapters.checkpoint import fingerprint, resolve
from dflash_serve.adapters.exactness import exact_path
from dflash_serve.adapters.loading import load_drafter, load_target
from dflash_serve.atomic_files import replace_json
from dflash_serve.compose.directories import target_directory
from dflash_serve.console import progress_bar
from dflash_serve.engine.types import SamplingParams
from dflash_serve.kernels import cpu_blas
from dflash_serve.measure.figures import mean_of
from dflash_serve.training.data import DataError
from dflash_serve.training.evaluate import remote, sets, view
from dflash_serve.training.evaluate.figures import Figures, by_dataset, figures
from dflash_serve.training.evaluate.local import Asking, Pair, Voice, template_arguments
from dflash_serve.training.evaluate.prompts import Conversation, read_prompt_file, select
from dflash_serve.training.evaluate.records import Failure, Response, ResponseFile
from dflash_serve.training.evaluate.remote import Endpoint, Take

_LISTED = 5  # failures shown in the terminal; the results hold all


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked. ``samples`` per data set: None takes the protocol's number, or a whole file.

    ``names``: data sets; () takes what ``directory`` holds, or all ten if ``prompts`` is not
    given either. ``directory`` None reads the hub.
    """

    names: tuple[str, ...]
    directory: Path | None
    prompts: Path | None
    samples: int | None
    shuffle: str


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are made. ``thinking`` is off, on, default or a level."""

    max_new: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    thinking: str

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise DataError(f"--temperature is {self.temperature}, but must be 0 to 2")
        if not 0 < self.top_p <= 1:
            raise DataError(f"--top-p is {self.top_p}, but must be above 0 and at most 1")


@dataclass(frozen=True, slots=True)
class LocalJob:
    """A pair on this machine. ``block`` None is the drafter's own block size."""

    target: str
    drafter: str
    block: int | None
    batch: int


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """A server; ``plain_url`` is one of the same model that does not speculate."""

    url: str
    model: str | None
    plain_url: str | None
    api_key: str | None
    concurrency: int
    timeout: float


def evaluate(questions: Questions, decoding: Decoding, job: LocalJob | RemoteJob, out: Path) -> int:
    """Ask, count, and write results; the exit code: 1 if exact decoding was not exact.

    Raises:
        DataError, AdapterError: something given cannot be used, or nothing was answered.
    """
    console, asked = Console(), _conversations(questions)
    if isinstance(job, LocalJob):
        run: _LocalRun | _RemoteRun = _LocalRun(job, decoding, asked)
    else:
        run = _RemoteRun(job, decoding)
    every = [one for conversations in asked.values() for one in conversations]
    failures: list[Failure] = []
    with closing(ResponseFile(out / "responses.jsonl", run.fixed)) as file:
        with _progress(console, every, file, failures) as take:
            for conversations in asked.values():
                run.answer(conversations, file, take)
        responses = [response for one in every for response in file.of(one)]
    if not responses:
        reason = failures[0].error if failures else "no conversation was asked"
        raise DataError(f"nothing was answered: {reason}")
    found = {name: figures(one, run.block) for name, one in by_dataset(responses).items()}
    total = figures(responses, run.block)
    wrong = _wrong(total, run)
    settings = {**run.settings, **asdict(decoding), **_asked(questions, asked)}
    _write(out, settings, _measured(found, total, failures), wrong)
    view.plot(found, total).savefig(out / "plot.png", dpi=110)
    _show(console, (found, total), failures, wrong)
    console.print(f"results in {out}: results.json, responses.jsonl, plot.png")
    return 1 if wrong else 0


class _LocalRun:
    """Loads a pair and answers with it, plainly and speculatively."""

    def __init__(
        self, job: LocalJob, decoding: Decoding, asked: Mapping[str, Sequence[Conversation]]
    ) -> None:
        directory, drafted = target_directory(job.target), resolve(job.drafter)
        target = load_target(directory)
        drafter = load_drafter(drafted, target)
        self.block: int | None = job.block or drafter.block_size
        if self.block > drafter.block_size:
            raise DataError(
                f"--block-size is {self.block}, but the drafter was trained "
                f"with {drafter.block_size}"
            )
        voice = Voice.load(directory, target)
        template = template_arguments(decoding.thinking, voice.tokenizer.template_reads)
        sampling = SamplingParams(
            decoding.temperature, decoding.top_p, decoding.top_k, seed=decoding.seed
        )
        self._asking = Asking(decoding.max_new, sampling, template)
        self._pair = Pair(target, drafter, voice, block=self.block, batch=job.batch)
        self._warm = False
        self.exact = exact_path()
        ways = {**asdict(decoding), "block": self.block, "batch": job.batch}
        self.fixed = {"target": fingerprint(directory), "drafter": fingerprint(drafted), **ways}
        self.settings = {"target": job.target, "drafter": job.drafter, **ways}

    def answer(self, conversations: Sequence[Conversation], file: ResponseFile, take: Take) -> None:
        left = [one for one in conversations if not file.done(one)]
        if left and not self._warm:
            self._pair.warm_up(left, self._asking)
            self._warm = True
        for made in self._pair.answers(left, self._asking):
            take(made)


class _RemoteRun:
    """Asks a server, then a plain one if there is one."""

    block: int | None = None
    exact = False  # a server's arithmetic is its own: differences are reported, no more

    def __init__(self, job: RemoteJob, decoding: Decoding) -> None:
        self._job, self._decoding = job, decoding
        self._server = self._ready(job.url, job.model)
        self._plain = self._ready(job.plain_url, job.model) if job.plain_url else None
        ways = {**asdict(decoding), "concurrency": job.concurrency}
        self.fixed = {
            "url": self._server.base_url,
            "model": self._server.model,
            "plain_url": self._plain.base_url if self._plain else None,
            **ways,
        }
        self.settings = {**self.fixed, "meta_info": self._server.meta_info}

    def answer(self, conversations: Sequence[Conversation], file: ResponseFile, take: Take) -> None:
        left = [one for one in conversations if not file.done(one)]
        width = self._job.concurrency
        asyncio.run(remote.converse(self._server, left, width, take))
        if self._plain is None:
            return
        again = [
            (one.messages([earlier.text for earlier in held[:turn]]), response)
            for one in conversations
            for held in [file.of(one)]
            for turn, response in enumerate(held)
            if response.plain is None
        ]
        asyncio.run(remote.retell(self._plain, again, width, take))

    def _ready(self, url: str, model: str | None) -> Endpoint:
        base, decoding = remote.base_url(url), self._decoding
        name = model or remote.first_model(base, self._job.api_key)
        fields: dict[str, Any] = {
            "max_tokens": decoding.max_new,
            "temperature": decoding.temperature,
            **_sampling_fields(decoding),
            **_thinking_fields(decoding.thinking),
        }
        endpoint = Endpoint(base, name, fields, self._job.timeout, self._job.api_key)
        return asyncio.run(remote.warmed_up(endpoint, self._job.concurrency))


def _sampling_fields(decoding: Decoding) -> dict[str, Any]:
    """Only what is not neutral: not every server knows every field."""
    if decoding.temperature == 0:
        return {}
    fields: dict[str, Any] = {"seed": decoding.seed}
    if decoding.top_p < 1:
        fields["top_p"] = decoding.top_p
    if decoding.top_k > 0:
        fields["top_k"] = decoding.top_k
    return fields


def _thinking_fields(thinking: str) -> dict[str, Any]:
    """A server's template is not known here, so a level goes under each name in use."""
    if thinking == "default":
        return {}
    if thinking in {"on", "off"}:
        return {"chat_template_kwargs": {"enable_thinking": thinking == "on"}}
    levels = {"reasoning_effort": thinking, "reasoning_strength": thinking}
    return {"chat_template_kwargs": {"enable_thinking": True, **levels}}


def _conversations(questions: Questions) -> dict[str, list[Conversation]]:
    """Conversations per data set, shuffled and cut to the number asked for."""
    read: dict[str, list[Conversation]] = {}
    counts: dict[str, int | None] = {}
    for name in _names(questions):
        if questions.directory is None:
            read[name] = sets.from_hub(name)
        else:
            read[name] = sets.from_directory(questions.directory, name)
        counts[name] = sets.DATASETS[name].samples
    if questions.prompts is not None:
        for name, conversations in read_prompt_file(questions.prompts).items():
            if name in read:
                raise DataError(f"{questions.prompts} has a kind {name!r}, as a data set is called")
            read[name], counts[name] = conversations, None
    return {
        name: select(conversations, questions.samples or counts[name], questions.shuffle)
        for name, conversations in read.items()
    }


def _names(questions: Questions) -> list[str]:
    if questions.names:
        return sets.known(questions.names)
    if questions.directory is not None:
        found = sets.found_in(questions.directory)
        if not found:
            raise DataError(f"{questions.directory} holds none of {', '.join(sets.DATASETS)}")
        return found
    return [] if questions.prompts else list(sets.DATASETS)


@contextmanager
def _progress(
    console: Console, asked: Sequence[Conversation], file: ResponseFile, failures: list[Failure]
) -> Iterator[Take]:
    """Keeps every answer as it comes, and shows how far it is."""
    with progress_bar(console) as progress:
        turns = sum(len(one.turns) for one in asked)
        held = sum(len(file.of(one)) for one in asked)
        task = progress.add_task("answers", total=turns, completed=held)

        def take(made: Response | Failure) -> None:
            if isinstance(made, Failure):
                failures.append(made)
            else:
                file.append(made)
            now = sum(len(file.of(one)) for one in asked)
            progress.update(task, completed=now, description=f"answers, {made.dataset}")

        yield take


def _wrong(total: Figures, run: _LocalRun | _RemoteRun) -> list[str]:
    """Why the command must not exit with 0."""
    if run.exact and total.differing:
        return [f"{total.differing} of {total.compared} responses differ from plain decoding"]
    return []


def _asked(questions: Questions, asked: Mapping[str, Sequence[Conversation]]) -> dict[str, Any]:
    return {
        "shuffle": questions.shuffle,
        "samples": {name: len(conversations) for name, conversations in asked.items()},
        "prompts": questions.prompts.name if questions.prompts else None,
        "data_dir": questions.directory.name if questions.directory else None,
    }


def _measured(
    found: Mapping[str, Figures], total: Figures, failures: Sequence[Failure]
) -> dict[str, Any]:
    return {
        "datasets": {name: asdict(one) for name, one in found.items()},
        "total": asdict(total),
        "mean_of_datasets": {
            "tokens_per_round": mean_of(one.drafting.tokens_per_round for one in found.values()),
            "tokens_per_round_pooled": mean_of(
                one.drafting.tokens_per_round_pooled for one in found.values()
            ),
            "speedup_end_to_end": mean_of(one.speedup_end_to_end for one in found.values()),
            "speedup_decode": mean_of(one.speedup_decode for one in found.values()),
        },
        "failed": [asdict(one) for one in failures],
    }


def _write(
    out: Path, settings: Mapping[str, Any], measured: Mapping[str, Any], wrong: Sequence[str]
) -> None:
    document = {
        "name": "eval",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance.origin(),
        "blas": cpu_blas.status().state.value,
        "settings": dict(settings),
        "results": dict(measured),
        "failures": list(wrong),
    }
    replace_json(out / "results.json", document)


def _show(
    console: Console,
    found: tuple[Mapping[str, Figures], Figures],
    failures: Sequence[Failure],
    wrong: Sequence[str],
) -> None:
    console.print(view.drafting_table(*found))
    console.print(view.speed_table(*found))
    slots = view.slot_table(found[1])
    if slots is not None:
        console.print(slots)
    if failures:
        console.print(f"{len(failures)} turns without an answer:")
        for one in failures[:_LISTED]:
            console.print(f"  {one.dataset} row {one.row} turn {one.turn + 1}: {one.error}")
    for line in wrong:
        console.print(line)
