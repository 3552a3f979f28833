"""Passages of a corpus file by their ids, for the few that are wanted: 16 bytes of memory per passage of the corpus.

corpus = PassagesById(Path("data/prepare/KEY/corpus.jsonl"))
corpus["12"].title
"""

from __future__ import annotations

import hashlib
import json
from array import array
from pathlib import Path

import numpy as np

from jointrag.types import Passage


class PassagesById:
    """The file is one that the prepare stage wrote: JSON lines of passages, every id once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        hashes, starts, start = array("q"), array("q"), 0
        for line in self._file:
            if line.strip():
                hashes.append(_hash(json.loads(line)["id"]))
                starts.append(start)
            start += len(line)
        order = np.argsort(np.frombuffer(hashes, dtype=np.int64), kind="stable")
        self._hashes, self._starts = np.frombuffer(hashes, np.int64)[order], np.frombuffer(starts, np.int64)[order]

    def __getitem__(self, id: str) -> Passage:
        """Raises KeyError for an id that is not in the corpus."""
        wanted = _hash(id)
        for i in range(int(np.searchsorted(self._hashes, wanted)), len(self._hashes)):
            if self._hashes[i] != wanted:
                break
            self._file.seek(int(self._starts[i]))
            passage = Passage(**json.loads(self._file.readline()))
            if passage.id == id:
                return passage
        raise KeyError(id)


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little", signed=True)
