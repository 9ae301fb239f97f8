"""Several processes that train one drafter, each on its share of every batch.

Started by ``mlx.launch``; alone, everything here does nothing. Knows arrays, not models.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from dflash_serve.measure.errors import DataError


@dataclass(frozen=True, slots=True)
class Processes:
    """This process and its peers. ``group`` None is a process alone."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @staticmethod
    def joined() -> "Processes":
        """The group that ``mlx.launch`` made, or this process alone."""
        group = mx.distributed.init()
        if group.size() == 1:
            return Processes()
        return Processes(group.rank(), group.size(), group)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def sum(self, tree: Any) -> Any:
        """Sum a tree of arrays over all processes, one message per dtype.

        The same order of additions everywhere: all processes get the same bits.
        """
        if self.group is None:
            return tree
        return _joined(tree, lambda flat: mx.distributed.all_sum(flat, group=self.group))

    def shared(self, tree: Any) -> Any:
        """The first process's arrays, bit for bit, on all. Same names, shapes, dtypes on each."""
        if self.group is None:
            return tree

        def send(flat: mx.array) -> mx.array:
            # As bytes: a sum of floats with zeros would lose the sign of -0.0.
            data = flat.view(mx.uint8)
            data = data if self.first else mx.zeros_like(data)
            return mx.distributed.all_sum(data, group=self.group).view(flat.dtype)

        return _joined(tree, send)

    def told(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The first process's ``facts`` (plain JSON) on all."""
        if self.group is None:
            return facts
        data = json.dumps(facts).encode() if self.first else b""
        length = int(np.array(self.sum(mx.array(len(data)))))
        sent = mx.array(list(data or bytes(length)), mx.int32)
        told: dict[str, Any] = json.loads(bytes(np.array(self.sum(sent)).tolist()))
        return told

    def total(self, values: list[float]) -> list[float]:
        """Plain numbers summed over all processes, as float32."""
        if self.group is None:
            return values
        return np.array(self.sum(mx.array(values, mx.float32))).tolist()

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """
        Raises:
            DataError: a process has other facts than the first; names them.
        """
        first = self.told(dict(facts))
        wrong = [name for name in facts if facts[name] != first.get(name)]
        if sum(self.total([float(len(wrong))])):
            names = f"process {self.rank} differs in {', '.join(wrong)}" if wrong else "another"
            raise DataError(f"the processes must be given the same: {names} has something else")


@contextmanager
def peers_needed() -> Iterator[None]:
    """
    Raises:
        DataError: the connection to another process has ended, which MLX tells as RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        if "[ring]" not in str(error):
            raise
        raise DataError(f"another process has ended: {error}") from error


def _joined(tree: Any, send: Callable[[mx.array], mx.array]) -> Any:
    """``send`` on all arrays of one dtype, laid end to end."""
    flat: list[tuple[str, mx.array]] = sorted(tree_flatten(tree), key=lambda item: item[0])
    sent: dict[str, mx.array] = {}
    for dtype in dict.fromkeys(value.dtype for _, value in flat):
        part = [(name, value) for name, value in flat if value.dtype == dtype]
        whole = send(mx.concatenate([value.reshape(-1) for _, value in part]))
        start = 0
        for name, value in part:
            sent[name] = whole[start : start + value.size].reshape(value.shape)
            start += value.size
    if isinstance(tree, mx.array):
        return next(iter(sent.values()))
    return tree_unflatten([(name, sent[name]) for name, _ in tree_flatten(tree)])
