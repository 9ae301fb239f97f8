"""Ways to decode the same requests, each with a runner that stays warm between its runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dflash_serve.bench import figures
from dflash_serve.bench.textsink import TextSink
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest
from dflash_serve.measure.driver import Answer, Run, run_all


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
