"""What a slot's prediction is held against, and which weights slots have. Plain Python."""

from dataclasses import dataclass
from typing import Literal, get_args

LossType = Literal[
    "dflash", "dpace", "dpace-cumulative-confidence-only", "dpace-continuation-value-only"
]
DFLASH, DPACE, DPACE_CUMULATIVE, DPACE_CONTINUATION = get_args(LossType)


@dataclass(frozen=True, slots=True)
class Objective:
    """The training objective.

    loss_type: slot weights that decay by gamma ("dflash"), or D-PACE's (arXiv 2605.18810), which
    follow from how likely the block's labels are; d_pace is its alpha. soft_label: share of
    KL(target || drafter) that takes the place of cross-entropy. selector_alpha: weight of a
    DFlash 2 selector's own cross-entropy over its candidates.
    """

    soft_label: float = 0.0
    loss_type: LossType = "dflash"
    d_pace: float = 0.5
    selector_alpha: float = 1.0
