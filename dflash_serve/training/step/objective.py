"""What a slot's prediction is held against, and which weights slots have. Plain Python."""

import math
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
    follow from how likely the block's labels are: the whole weight or one of its two parts.
    d_pace: D-PACE's alpha. soft_label: share of KL(target || drafter) that takes the place of
    cross-entropy, 0 to 1. selector_alpha: weight of a DFlash 2 selector's own cross-entropy over
    its candidates.
    """

    soft_label: float = 0.0
    loss_type: LossType = "dflash"
    d_pace: float = 0.5
    selector_alpha: float = 1.0

    def __post_init__(self) -> None:
        if self.loss_type not in get_args(LossType):
            raise ValueError(f"loss_type {self.loss_type!r} is none of {get_args(LossType)}")
        if not 0.0 <= self.soft_label <= 1.0 or not 0.0 <= self.d_pace <= 1.0:
            raise ValueError(f"soft_label {self.soft_label}, d_pace {self.d_pace}: must be 0 to 1")
        if not 0.0 <= self.selector_alpha < math.inf:
            raise ValueError(f"selector_alpha is {self.selector_alpha}, but must be 0 or more")
