"""The real scheduler over the real runner, one step at a time."""

from dataclasses import dataclass, field

from dflash_serve.adapters.base import DraftAdapter, TargetAdapter
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.scheduler import Scheduler
from dflash_serve.engine.types import EngineRequest, EngineStats, FinishReason, TokenChunk


@dataclass(frozen=True, slots=True)
class Drafting:
    """A drafter and the block that it drafts; without one, decoding is plain.

    ``nodes``: tokens that are verified of a tree, 0 for chains.
    """

    drafter: DraftAdapter | None = None
    block: int = 1
    nodes: int = 0


@dataclass
class Driving:
    """Requests on their way; ``texts`` and ``finishes`` by their ids."""

    target: TargetAdapter
    drafting: Drafting
    batch: int
    context: int
    chunk: int = 24
    compiled: bool = True
    texts: dict[str, list[int]] = field(default_factory=dict)
    finishes: dict[str, FinishReason] = field(default_factory=dict)

    def __post_init__(self) -> None:
        drafter, block = self.drafting.drafter, self.drafting.block
        self._runner = DeviceRunner(self.target, drafter, block, compiled=self.compiled)
        config = EngineConfig(
            max_batch=self.batch,
            max_context=self.context,
            prefill_chunk=self.chunk,
            block_size=block,
            tree_nodes=(self.drafting.nodes,),
        )
        self._scheduler = Scheduler(config, lambda: 0.0, self._runner.bytes_for)

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    @property
    def rows(self) -> int:
        """Rows that have caches."""
        return self._runner.rows

    @property
    def stats(self) -> EngineStats:
        return self._scheduler.stats()

    def add(self, request: EngineRequest) -> None:
        self.texts[request.id] = []
        self._scheduler.add(request)

    def cancel(self, name: str) -> None:
        self._take(self._scheduler.abort(name))

    def swap(self, drafting: Drafting) -> None:
        """Another drafter takes over between two steps."""
        drafter, block = drafting.drafter, drafting.block
        beside = self._runner.beside(drafter, block)
        freed = self._scheduler.make_room(block, beside.bytes_for)
        if freed is not None:
            self._runner.run(freed)
        self._runner.draft_with(drafter, block)
        self._scheduler.draft_anew(
            block, self._runner.bytes_for, shows_context=self._runner.shows_context
        )

    def step(self) -> None:
        plan = self._scheduler.plan()
        if plan is not None:
            self._take(self._scheduler.commit(plan, self._runner.run(plan)))

    def _take(self, chunks: list[TokenChunk]) -> None:
        for chunk in chunks:
            self.texts[chunk.request_id].extend(chunk.tokens)
            if chunk.finish is not None:
                self.finishes[chunk.request_id] = chunk.finish
