"""Passages of a corpus file by their ids, for the few that are wanted: 16 bytes of memory per passage of the corpus.

corpus = PassagesById(Path("data/prepare/KEY/corpus.jsonl"))
corpus["12"].title
"""

from __future__ import annotations

import hashlib
import json
from array import array
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jointrag.types import Passage


class PassagesById:
    """The file is one that the prepare stage wrote: JSON lines of passages, every id once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sorted hashes of the ids, and where the lines of these start. Read when the first passage is asked for: a
        corpus of millions takes minutes, and many question sets name no passage."""
        hashes, starts, start = array("q"), array("q"), 0
        with self._path.open("rb") as file:
            for line in file:
                if line.strip():
                    hashes.append(_hash(json.loads(line)["id"]))
                    starts.append(start)
                start += len(line)
        order = np.argsort(np.frombuffer(hashes, dtype=np.int64), kind="stable")
        return np.frombuffer(hashes, np.int64)[order], np.frombuffer(starts, np.int64)[order]

    def __getitem__(self, id: str) -> Passage:
        """Raises KeyError for an id that is not in the corpus."""
        wanted = _hash(id)
        hashes, starts = self._places
        with self._path.open("rb") as file:
            for i in range(int(np.searchsorted(hashes, wanted)), len(hashes)):
                if hashes[i] != wanted:
                    break
                file.seek(int(starts[i]))
                passage = Passage(**json.loads(file.readline()))
                if passage.id == id:
                    return passage
        raise KeyError(id)


def _hash(id: str) -> int:
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little", signed=True)
