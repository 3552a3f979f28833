"""Training files of retrieval models: the format is detected, all of it is checked, rows stay on disk.

records = open_records(Path("train.jsonl"), cache=Path("data/.records"))
train, held_out = records.split(0.1, seed=0)
train[0].query, train.report.duplicates
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

Format = Literal["pairs", "triplets", "scored", "graded", "flagembedding"]
Need = Literal["neg", "scores"]


@dataclass(frozen=True, slots=True)
class Record:
    """A query with the texts that answer it and those that do not. Scores are aligned with the texts, or empty."""

    query: str  # the file's prompt is in front already
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Report:
    """What the files hold and what was left out of them."""

    format: Format
    lines: int = 0
    records: int = 0
    questions: int = 0  # distinct queries
    positives: int = 0
    negatives: int = 0
    fewest_negatives: int = 0  # of a record
    duplicates: int = 0  # (query, positive) pairs that were there before; kept
    empty_texts: int = 0  # left out
    lowest_score: float | None = None
    highest_score: float | None = None


class Records(Sequence[Record]):
    """Records on disk, in the order of their lines. Pickles as a path, so that data loader workers share it."""

    report: Report

    @property
    def format(self) -> Format:
        return self.report.format

    def __len__(self) -> int:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        raise NotImplementedError

    def where(self, index: int) -> str:
        """`FILE, line N` of a record."""
        raise NotImplementedError

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Records:
        raise NotImplementedError

    def split(self, share: float, seed: int) -> tuple[Records, Records]:
        """(The rest, `share` of the questions held out): a question is in one of the two, with all its lines."""
        raise NotImplementedError


def open_records(
    path: Path | Sequence[Path],
    *,
    cache: Path,
    needs: frozenset[Need] = frozenset(),
    prompt_format: str = "{prompt}{query}",
) -> Records:
    """Check whole files, hold them under `cache`, and open them. A second call finds them there, by their content.

    `needs`: what the model cannot do without: "neg", "scores". Raises ValueError with file, line and remedy.
    """
    raise NotImplementedError


def write_records(path: Path, records: Iterable[Record], format: Format | None = None) -> int:
    """Write records as JSON lines that `open_records` reads, atomically; returns how many."""
    raise NotImplementedError
