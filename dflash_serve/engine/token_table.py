"""The tokens of one row whose logits are changed: bias, counts so far, bans. On the host.

Knows no positions ahead and no arrays on the device.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from dflash_serve.engine.types import LogitRules

FIELDS = 4
"""Numbers per token: bias, generated count, whether it was seen, and the end of its ban."""
BIAS, COUNT, SEEN, BANNED_UNTIL = range(FIELDS)


class TokenTable:
    """Entries of one row, at most one per token, grown as tokens are generated.

    ``ids`` [n] int32 and ``values`` [n, FIELDS] float32. COUNT is how often the token was
    generated, SEEN is 1 if it is in the prompt or was generated, BANNED_UNTIL the number of
    generated tokens before which it cannot be chosen.
    """

    def __init__(self, rules: LogitRules, stop_tokens: Iterable[int]) -> None:
        self._rules = rules
        self._at: dict[int, int] = {}
        self._ids = np.zeros(16, dtype=np.int32)
        self._values = np.zeros((16, FIELDS), dtype=np.float32)
        for token, bias in rules.bias:
            self._row(token)[BIAS] = bias
        for token in stop_tokens if rules.min_tokens else ():
            self._row(token)[BANNED_UNTIL] = rules.min_tokens

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        return self._ids[: len(self._at)]

    @property
    def values(self) -> npt.NDArray[np.float32]:
        return self._values[: len(self._at)]

    def read(self, tokens: Iterable[int]) -> None:
        """Tokens of the prompt: repetition counts them."""
        if self._rules.repetition != 1.0:
            for token in dict.fromkeys(tokens):
                self._row(token)[SEEN] = 1.0

    def commit(self, tokens: Iterable[int]) -> None:
        """Tokens that were generated."""
        if self._rules.counts:
            for token in tokens:
                values = self._row(token)
                values[COUNT] += 1.0
                values[SEEN] = 1.0

    def _row(self, token: int) -> npt.NDArray[np.float32]:
        """The values of a token's entry, made where there is none; valid until the next one."""
        entry = self._at.setdefault(token, len(self._at))
        if entry == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        self._ids[entry] = token
        return self._values[entry]
