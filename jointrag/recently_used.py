"""A bounded memory that forgets what was not asked for the longest time.

known = RecentlyUsed[str, bytes](room=1_000_000, size=lambda key, value: len(value))
known.add({"a": b"…"})
known.find(["a", "b"])      # {"a": b"…"}
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RecentlyUsed(Generic[K, V]):
    """Safe for several threads."""

    def __init__(self, room: int, size: Callable[[K, V], int] = lambda key, value: 1) -> None:
        """`size`: how much of the room a value takes; each takes 1 unless it says otherwise."""
        self._room = room
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, keys: Iterable[K]) -> dict[K, V]:
        """What is known of them."""
        found: dict[K, V] = {}
        with self._lock:
            for key in keys:
                if (value := self._values.get(key)) is not None:
                    self._values.move_to_end(key)
                    found[key] = value
        return found

    def add(self, values: Mapping[K, V]) -> None:
        """What is there already stays as it is."""
        with self._lock:
            for key, value in values.items():
                if key not in self._values:
                    self._values[key] = value
                    self._room -= self._size(key, value)
            while self._room < 0:
                self._room += self._size(*self._values.popitem(last=False))
