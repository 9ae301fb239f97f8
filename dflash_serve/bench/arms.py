"""Ways to decode the same requests, each with a runner that stays warm between its runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import zip_longest
from pathlib import Path

from tokenizers import Tokenizer

from dflash_serve.adapters.base import DraftAdapter, FillingDrafter
from dflash_serve.bench import figures
from dflash_serve.bench.pair import Pair
from dflash_serve.bench.turns import in_turns
from dflash_serve.bench.work import Work
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, TokenChunk
from dflash_serve.engine.warm_up import measured_costs
from dflash_serve.measure.driver import Answer, Run, run_all
from dflash_serve.text.stream import Detokenizer
from dflash_serve.text.token_text import TokenText


class TextSink:
    """Detokenises every chunk of a measured step, as a server does.

    Owner of one `Detokenizer` per live request.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens = TokenText(tokenizer)
        self._streams: dict[str, Detokenizer] = {}

    @classmethod
    def load(cls, directory: Path | None) -> "TextSink | None":
        """Over the directory's tokenizer.json; None where there is none."""
        path = directory / "tokenizer.json" if directory else None
        return cls(_tokenizer(path)) if path and path.exists() else None

    def __call__(self, chunks: Sequence[TokenChunk]) -> None:
        for chunk in chunks:
            stream = self._streams.setdefault(chunk.request_id, Detokenizer(self._tokens))
            for token in chunk.tokens:
                stream.push(token)
            if chunk.finish is not None:
                stream.flush()
                del self._streams[chunk.request_id]


@cache
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


@dataclass(slots=True)
class Arm:
    """One way to decode. Owner of its runner, and of what its recorded runs gave.

    ``directory`` holds the tokenizer that makes text of the tokens, as a server would; None makes
    none. ``costs``: as `Scheduler` takes them.
    """

    name: str
    runner: DeviceRunner
    config: EngineConfig
    requests: Sequence[EngineRequest]
    directory: Path | None = None
    costs: tuple[CostPoint, ...] = ()
    runs: list[Run] = field(default_factory=list)

    def once(self) -> Run:
        """A run that is not recorded: the first one traces and compiles graphs."""
        sink = TextSink.load(self.directory)
        return run_all(self.runner, self.config, self.requests, sink, self.costs)

    def record(self) -> None:
        self.runs.append(self.once())

    @property
    def answers(self) -> list[Answer]:
        """Of all recorded runs."""
        return [answer for run in self.runs for answer in run.answers.values()]

    @property
    def step_rates(self) -> list[float]:
        return [run.step_rate for run in self.runs]

    def different(self, reference: Mapping[str, Sequence[int]]) -> int:
        """Answers whose tokens are not the reference's."""
        return sum(len(figures.differing(run.answers, reference)) for run in self.runs)

    def departure(self, reference: Mapping[str, Sequence[int]]) -> str | None:
        """Where the first answer that is not the reference's leaves it."""
        for run in self.runs:
            for key in figures.differing(run.answers, reference):
                pairs = enumerate(zip_longest(run.answers[key].tokens, reference[key]))
                at, (own, other) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
                return f"{self.name}: request {key}, token {at} is {own} and not {other}"
        return None


def make_arm(
    pair: Pair,
    work: Work,
    name: str,
    config: EngineConfig,
    drafter: DraftAdapter | None = None,
    second: FillingDrafter | None = None,
) -> Arm:
    """One that answers the requests of ``work``; plainly without a drafter.

    Where the engine is to choose its blocks, it is told what rounds cost.
    """
    runner = DeviceRunner(pair.target, drafter, config.block_size, second=second)
    costs = measured_costs(runner, config, runner.bytes_for) if config.adaptive else ()
    return Arm(name, runner, config, work.requests, pair.directory, costs)


def measure(
    arms: Sequence[Arm], repeats: int, beside: Sequence[Callable[[], None]] = ()
) -> list[Run]:
    """Every arm once untimed, then all in turns, ``beside`` them too; their runners are closed.

    What the untimed runs gave.
    """
    first = [arm.once() for arm in arms]
    in_turns([*(arm.record for arm in arms), *beside], repeats)
    for arm in arms:
        arm.runner.close()
    return first
