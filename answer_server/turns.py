"""A line in front of a model: one request at a time, in the order in which they came, and no more than so many waiting.

    place = turns.join()      # LineFull where too many wait
    with place:               # begins when it is this request's turn
        …

A model is for one thread at a time. Requests are answered in the threads of the web server, which wait here.
"""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType


class LineFull(RuntimeError):
    """As many requests wait as may."""


class Turns:
    """Safe for several threads."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._changed = threading.Condition()
        self._line: deque[Place] = deque()  # the first one has its turn

    def join(self) -> Place:
        """A place at the end. Whoever takes it has to leave it again, whether or not the turn came."""
        with self._changed:
            if len(self._line) > self._max_waiting:
                raise LineFull(f"{self._max_waiting} requests are waiting already (--max-waiting); ask again later")
            place = Place(self)
            self._line.append(place)
            return place

    def num_before(self, place: Place) -> int:
        with self._changed:
            return self._line.index(place) if place in self._line else 0

    def _wait(self, place: Place) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._line[0] is place)

    def _leave(self, place: Place) -> None:
        with self._changed:
            if place in self._line:
                self._line.remove(place)
                self._changed.notify_all()


class Place:
    """See `Turns`."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    @property
    def num_before(self) -> int:
        """How many are served first."""
        return self._turns.num_before(self)

    def __enter__(self) -> Place:
        self._turns._wait(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """As often as one likes."""
        self._turns._leave(self)
