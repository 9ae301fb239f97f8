"""What a drafter is trained on: one clean sequence and which of its tokens are the target's own.

Plain numpy; knows nothing of models.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Example:
    """One clean sequence: a prompt and the target's own answer.

    tokens: [T] int32. loss_mask: [T] bool, true where a token is the target's own choice.
    """

    tokens: IntArray
    loss_mask: BoolArray

    def __post_init__(self) -> None:
        if self.tokens.shape != self.loss_mask.shape or self.tokens.ndim != 1:
            raise ValueError(
                f"tokens {self.tokens.shape} and loss_mask {self.loss_mask.shape} must be one [T]"
            )

    @property
    def length(self) -> int:
        return int(self.tokens.shape[0])
