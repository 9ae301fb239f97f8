"""What goes into the engine loop and what comes out of it, as data.

Commands are applied between two steps, in their order; events are told on the loop's thread.
"""

from dataclasses import dataclass
from typing import Protocol

from dflash_serve.adapters.base import DraftAdapter
from dflash_serve.engine.client import EngineState
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.plan import Runner, StepPlan
from dflash_serve.engine.types import EngineRequest, TokenChunk
from dflash_serve.engine.warm_up import CostStore


class LaneRunner(Runner, Protocol):
    """A runner that says what its rows cost and whose drafter can change."""

    def bytes_for(self, tokens: int) -> int:
        """As `RowBytes`, with the drafter that runs now."""
        ...

    @property
    def shows_context(self) -> bool:
        """Whether `ContextRow`s can be run."""
        ...

    def draft_with(self, drafter: DraftAdapter | None, block_size: int) -> None:
        """Draft with another drafter, or not at all. If it raises, it can be called again after
        a `reset`."""
        ...

    def beside(self, drafter: DraftAdapter | None, block_size: int) -> "LaneRunner":
        """A second runner of the same target, with another drafter and no rows yet."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """One target to serve: weights on the device, evaluated, and the limits.

    ``costs`` keeps what its rounds were measured to cost; without it they are measured anew.
    """

    runner: LaneRunner
    config: EngineConfig
    costs: CostStore | None = None


@dataclass(frozen=True, slots=True)
class NewDrafter:
    """Evaluated weights of a drafter, None for plain decoding, and its block.

    ``costs`` as in `Loaded`, of rounds with this drafter.
    """

    drafter: DraftAdapter | None
    block_size: int
    costs: CostStore | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """Serve a target: after its warm-up it is the next lane."""

    loaded: Loaded


@dataclass(frozen=True, slots=True)
class Add:
    """Queue a request that `check_request` has passed."""

    request: EngineRequest
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Abort:
    """End a request; unknown and finished ids are ignored."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Swap:
    """Try another drafter and let it take over; `Swapped` with the same number says how it went."""

    number: int
    new: NewDrafter
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Reset:
    """The step of ``plan`` failed: forget the caches of its lane and go on without its rows."""

    plan: StepPlan
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop. ``failure``: why there is nothing to serve."""

    failure: BaseException | None = None


Command = Open | Add | Abort | Swap | Reset | Stop


@dataclass(frozen=True, slots=True)
class Emitted:
    """What one step or command gave."""

    chunks: list[TokenChunk]


@dataclass(frozen=True, slots=True)
class Changed:
    """The engine's state is another. ``failure`` comes with ``FAILED``."""

    state: EngineState
    failure: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Swapped:
    """A swap has ended; with a ``failure`` the old drafter goes on."""

    number: int
    failure: BaseException | None = None


Event = Emitted | Changed | Swapped
