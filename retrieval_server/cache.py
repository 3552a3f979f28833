"""Answers to queries asked before, the least recently asked forgotten first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from jointrag.types import Hit


class ResultCache:
    """Safe for several threads. Its size is in passages, because answers of k=1000 take a hundred times those of 10."""

    def __init__(self, num_passages: int) -> None:
        self._room = num_passages
        self._answers: OrderedDict[tuple[str, int], list[Hit]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, queries: Iterable[str], k: int) -> dict[str, list[Hit]]:
        """The answers that are known."""
        found = {}
        with self._lock:
            for query in queries:
                if (hits := self._answers.get((query, k))) is not None:
                    self._answers.move_to_end((query, k))
                    found[query] = hits
        return found

    def add(self, answers: Mapping[str, list[Hit]], k: int) -> None:
        with self._lock:
            for query, hits in answers.items():
                if (query, k) not in self._answers:
                    self._answers[query, k] = hits
                    self._room -= _size(hits)
            while self._room < 0:
                _, hits = self._answers.popitem(last=False)
                self._room += _size(hits)


def _size(hits: list[Hit]) -> int:
    return max(1, len(hits))  # a query that finds nothing takes room as well
