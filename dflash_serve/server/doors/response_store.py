"""Responses that clients may come back to: bounded in number and bytes, the least used go first.

Knows nothing of HTTP. Safe to use from several threads; nothing is kept beyond the process.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dflash_serve.server.handling import Find
from dflash_serve.server.protocol.response_answer import Response
from dflash_serve.server.protocol.responses import StoredItem


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """``items`` is the whole conversation, this response's output included.

    ``own`` counts those of ``items`` that this request brought, before the ``made`` last ones,
    which are its output. ``size`` is that of the conversation in bytes.
    """

    response: Response
    items: tuple[StoredItem, ...]
    own: int
    made: int
    size: int

    @property
    def input_items(self) -> Sequence[StoredItem]:
        """What the request itself brought."""
        end = len(self.items) - self.made
        return self.items[end - self.own : end]


class KeptItems(Protocol):
    """Where the items of earlier requests are found."""

    def conversation(self, name: str) -> tuple[StoredItem, ...] | None:
        """The items up to the end of the response with this id; None if it is not kept."""
        ...

    def item(self, name: str) -> StoredItem | None:
        """The item with this id, if a kept response brought or made it."""
        ...


class FoundItems:
    """`KeptItems` of a store that may be in another process."""

    def __init__(self, find: Find) -> None:
        self._find = find

    def conversation(self, name: str) -> tuple[StoredItem, ...] | None:
        found: tuple[StoredItem, ...] | None = self._find("conversation", name)
        return found

    def item(self, name: str) -> StoredItem | None:
        found: StoredItem | None = self._find("item", name)
        return found


class Lookups:
    """Answers one request's look-ups, and remembers the conversation that it goes on with."""

    def __init__(self, store: "ResponseStore") -> None:
        self._store = store
        self.earlier: tuple[StoredItem, ...] = ()

    def find(self, kind: str, name: str) -> Any:
        """As `Find`."""
        if kind == "item":
            return self._store.item(name)
        conversation = self._store.conversation(name)
        self.earlier = conversation or ()
        return conversation


class ResponseStore:
    """At most ``count`` responses of at most ``size`` bytes together.

    Conversations share their items in memory, but each counts whole: the bound is on the safe side.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._limit = size
        self._size = 0
        self._entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self._items: dict[str, tuple[str, StoredItem]] = {}  # item id -> (response id, item)
        self._lock = threading.RLock()

    def add(self, entry: StoredResponse) -> None:
        """Keep ``entry``, unless it alone is over the limit."""
        if entry.size > self._limit:
            return
        name = entry.response.id
        with self._lock:
            self._entries[name] = entry
            self._size += entry.size
            for item in entry.items[len(entry.items) - entry.own - entry.made :]:
                if item.id is not None:
                    self._items[item.id] = (name, item)
            while len(self._entries) > self._count or self._size > self._limit:
                self.remove(next(iter(self._entries)))

    def get(self, name: str) -> StoredResponse | None:
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None:
                self._entries.move_to_end(name)
            return entry

    def conversation(self, name: str) -> tuple[StoredItem, ...] | None:
        """As `KeptItems`."""
        entry = self.get(name)
        return None if entry is None else entry.items

    def item(self, name: str) -> StoredItem | None:
        """As `KeptItems`."""
        found = self._items.get(name)
        return None if found is None else found[1]

    def remove(self, name: str) -> bool:
        """Whether there was such a response."""
        with self._lock:
            entry = self._entries.pop(name, None)
            if entry is None:
                return False
            self._size -= entry.size
            for item in entry.items:
                if item.id is not None and self._items.get(item.id, ("",))[0] == name:
                    del self._items[item.id]
            return True
