"""Which policy chooses an engine's rounds. Pure Python, no device."""

from collections.abc import Iterable

from dflash_serve.engine.block_policy import BlockPolicy, FixedBlocks, RoundPolicy
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.cost_table import CostPoint, CostTable
from dflash_serve.engine.round_kinds import RoundKinds


def judges_chains(config: EngineConfig) -> bool:
    """Whether the policy of ``config`` needs to know what rounds cost before they run."""
    return config.block_size > 1 and config.adaptive and not any(config.tree_nodes)


def make_policy(config: EngineConfig, costs: Iterable[CostPoint]) -> RoundPolicy:
    """The policy that ``config`` asks for; without ``costs`` no chain can be judged by them."""
    if config.block_size > 1 and any(config.tree_nodes):
        return RoundKinds(config.block_size, config.tree_nodes, plain=config.adaptive)
    points = tuple(costs)
    if judges_chains(config) and points:
        return BlockPolicy(config.block_size, CostTable(points))
    return FixedBlocks(config.block_size)
