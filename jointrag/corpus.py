"""Passages on disk: built once, then read by position through a memory map, whatever their number.

build(Path("corpus.jsonl"), Path("index/corpus"))
corpus = Corpus.open(Path("index/corpus"))
len(corpus), corpus[17].title
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jointrag.corpus_files import copy
from jointrag.types import Passage

_PASSAGES = "passages.jsonl"
_OFFSETS = "offsets.npy"  # int64 [passages + 1]: where each line starts, then the file's size


def build(source: Path, out: Path) -> str:
    """Store the passages of `source` (see jointrag.corpus_files) in folder `out`, in their order; returns the corpus
    fingerprint.

    Raises ValueError for a line that is not a passage, an id that occurs twice (with both lines), an empty corpus.
    """
    out.mkdir(parents=True, exist_ok=True)
    copy(source, out / _PASSAGES)
    offsets, digest = array("q", [0]), hashlib.sha256()
    with (out / _PASSAGES).open("rb") as file:
        for line in file:
            digest.update(line)
            offsets.append(offsets[-1] + len(line))
    aside = out / f".{_OFFSETS}.{os.getpid()}"
    with aside.open("wb") as file:
        np.save(file, np.asarray(offsets, dtype=np.int64))
    aside.replace(out / _OFFSETS)
    return digest.hexdigest()


class Corpus:
    """A sequence of passages. Safe to read from several threads."""

    def __init__(self, data: mmap.mmap, offsets: NDArray[np.int64]) -> None:
        self._data = data
        self._offsets = offsets

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Open what `build` wrote. Raises ValueError for a folder that is missing, incomplete or truncated."""
        passages, offsets_path = folder / _PASSAGES, folder / _OFFSETS
        for path in (passages, offsets_path):
            if not path.is_file():
                raise ValueError(f"{path}: no such file; build the index again")
        try:
            offsets = np.load(offsets_path, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise ValueError(f"{offsets_path}: damaged ({error}); build the index again") from None
        if (size := passages.stat().st_size) != offsets[-1]:
            raise ValueError(f"{passages}: {size} bytes where {offsets[-1]} were written; build the index again")
        with passages.open("rb") as file:
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> Passage:
        if not 0 <= position < len(self):
            raise IndexError(f"passage {position} of {len(self)}")
        return Passage(**json.loads(self._data[self._offsets[position] : self._offsets[position + 1]]))

    def __iter__(self) -> Iterator[Passage]:
        return (self[position] for position in range(len(self)))
