"""Training files of retrieval models: the format is detected, all of it is checked, rows stay on disk.

records = open_records(Path("train.jsonl"), cache=Path("data/.records"))
train, held_out = records.split(0.1, seed=0)
train[0].query, train.report.duplicates

| format | fields of a line |
|---|---|
| pairs | query, pos |
| triplets | query, pos, neg |
| scored | query, pos (all texts), scores |
| graded | query, pos (all texts), pos_scores; with neg: those count as the lowest label |
| flagembedding | query, pos, neg, pos_scores, neg_scores |

Any line may have `prompt_for_query` (RAG-Retrieval) or `prompt` (FlagEmbedding), which goes before the query.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from jointrag.jsonl import write_jsonl
from trainers.retrieval.first_pass import Report
from trainers.retrieval.lines import Format, parse_record
from trainers.retrieval.store import Store, open_store

__all__ = ["Format", "Need", "Record", "Records", "Report", "open_records", "write_records"]

Need = Literal["neg", "scores"]
logger = logging.getLogger(__name__)
_READ_AT_ONCE = 64  # records, when all are read in order


@dataclass(frozen=True, slots=True)
class Record:
    """A query with the texts that answer it and those that do not. Scores are aligned with the texts, or empty."""

    query: str  # the file's prompt is in front already
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()


class Records(Sequence[Record]):
    """Records on disk, in the order of their lines. Pickles as a path, so that data loader workers share it."""

    def __init__(self, store: Store, selected: NDArray[np.int64] | None = None) -> None:
        self._store = store
        self._selected = selected  # None: all

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self._store, self._selected)

    @property
    def report(self) -> Report:
        """Of the whole files."""
        return self._store.report

    @property
    def format(self) -> Format:
        return self._store.report.format

    @property
    def scores(self) -> Literal["all", "positives", "none"]:
        """Which texts have one."""
        if "pos_scores" not in self.report.fields and "scores" not in self.report.fields:
            return "none"
        return "positives" if self.format == "graded" and "neg" in self.report.fields else "all"

    def __len__(self) -> int:
        return len(self._store.index) if self._selected is None else len(self._selected)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        number = self._number(index)
        row: dict[str, Any] = self._store.rows[number]
        return self._record(number, row["query"], row["texts"])

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), _READ_AT_ONCE):
            numbers = [self._number(i) for i in range(start, min(start + _READ_AT_ONCE, len(self)))]
            rows: dict[str, list[Any]] = self._store.rows[numbers]
            for number, query, texts in zip(numbers, rows["query"], rows["texts"], strict=True):
                yield self._record(number, query, texts)

    def _number(self, index: int) -> int:
        """The place in the store."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return index if self._selected is None else int(self._selected[index])

    def _record(self, number: int, query: str, texts: list[str]) -> Record:
        num_positives = int(self._store.index["positives"][number])
        scores: tuple[float, ...] = ()
        if self.scores != "none":
            start = self._store.index["start"][number]
            count = len(texts) if self.scores == "all" else num_positives
            scores = tuple(self._store.texts["score"][start : start + count].tolist())
        return Record(
            query,
            tuple(texts[:num_positives]),
            tuple(texts[num_positives:]),
            scores[:num_positives],
            scores[num_positives:],
        )

    # ---- without reading texts ----

    @cached_property
    def num_positives(self) -> NDArray[np.int32]:
        """[records]"""
        return self._column("positives")

    @cached_property
    def num_negatives(self) -> NDArray[np.int32]:
        """[records]"""
        return self._column("negatives")

    @cached_property
    def questions(self) -> NDArray[np.uint64]:
        """[records] a hash of each question, the same for the same words in other case or spacing."""
        return self._column("question")

    def _column(self, name: str) -> NDArray[Any]:
        column = self._store.index[name]
        return column if self._selected is None else column[self._selected]

    def texts_of(self, index: int) -> NDArray[Any]:
        """[texts], positives first: the fields `key` (a hash of the text), `score` (NaN: none) and `chars`."""
        number = self._number(index)
        row = self._store.index[number]
        return self._store.texts[row["start"] : row["start"] + row["positives"] + row["negatives"]]

    def where(self, index: int) -> str:
        """`FILE, line N` of a record."""
        return self._store.where(self._number(index))

    # ---- parts ----

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> Records:
        """Those records, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Records(self._store, chosen if self._selected is None else self._selected[chosen])

    def split(self, share: float, seed: int) -> tuple[Records, Records]:
        """(The rest, `share` of the questions held out). All lines of a question are on the same side.

        Raises ValueError where one of the two would be empty.
        """
        if not 0 < share < 1:
            raise ValueError(f"{share} of the questions cannot be held out; give a share between 0 and 1")
        keys = self.questions
        distinct = np.unique(keys)
        if len(distinct) < 2:
            raise ValueError(f"{self.where(0)}: there is one question alone, so none can be held out")
        count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
        held = np.isin(keys, np.random.default_rng(seed).permutation(distinct)[:count])
        return self.select(np.flatnonzero(~held)), self.select(np.flatnonzero(held))


def open_records(
    path: Path | Sequence[Path],
    *,
    cache: Path,
    needs: frozenset[Need] = frozenset(),
    prompt_format: str = "{prompt}{query}",
) -> Records:
    """Check whole files, hold them under the folder `cache`, and open them; a second run finds them there.

    `needs`: what the training cannot do without: "neg", "scores". `prompt_format`: how a line's prompt is put before
    its query; "{query}" leaves prompts out. Several files are one set of one format.

    Raises ValueError with file, line and remedy.
    """
    paths = [path] if isinstance(path, Path) else list(path)
    records = Records(open_store(paths, cache=cache, parse=parse_record, prompt_format=prompt_format))
    if "neg" in needs and "neg" not in records.report.fields:
        raise ValueError(
            f'{records.where(0)}: no field "neg", and this training needs negatives; mine hard ones first, or train '
            "with the other texts of a batch alone"
        )
    if "scores" in needs and records.scores == "none":
        raise ValueError(
            f'{records.where(0)}: none of the fields "scores" and "pos_scores", and this training needs a score for '
            "each text; have a teacher or an LLM score them first"
        )
    _warn(paths[0], records.report)
    return records


def _warn(path: Path, report: Report) -> None:
    if classes := [kind for kind in report.types if "class" in kind or "cluster" in kind]:
        logger.warning(
            "%s: type %s: texts are labels there, so other records' texts are no sure negatives; train without "
            "in-batch negatives",
            path,
            ", ".join(classes),
        )
    if report.joined:
        logger.warning(
            "%s: a prompt runs into its query (%r); if the model will be asked with a space there, make the prompt "
            'format "{prompt} {query}"',
            path,
            report.joined if len(report.joined) < 160 else f"{report.joined[:160]}…",
        )


def write_records(path: Path, records: Iterable[Record], format: Format | None = None) -> int:
    """Write records as JSON lines that `open_records` reads, atomically; returns how many.

    `format`: "pairs", "triplets", "scored", "graded" or "flagembedding"; by default what the first record looks like.
    Raises ValueError for a record of another format.
    """
    return write_jsonl(path, _rows(path, records, format))


def _rows(path: Path, records: Iterable[Record], format_: Format | None) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(records, 1):
        if format_ is None and record.positive_scores:
            format_ = "flagembedding" if record.negatives else "scored"
        elif format_ is None:
            format_ = "triplets" if record.negatives else "pairs"
        row: dict[str, Any] = {"query": record.query, "pos": list(record.positives)}
        if format_ in ("triplets", "flagembedding"):
            row["neg"] = list(record.negatives)
        if format_ in ("scored", "graded", "flagembedding"):
            row["scores" if format_ == "scored" else "pos_scores"] = list(record.positive_scores)
        if format_ == "flagembedding":
            row["neg_scores"] = list(record.negative_scores)
        _check_written(record, row, f"{path}, line {number}: a record that does not fit the format {format_!r}")
        yield row


def _check_written(record: Record, row: dict[str, Any], what: str) -> None:
    """Nothing of the record is lost, and each text has its score where there are scores."""
    if record.negatives and "neg" not in row:
        raise ValueError(f"{what}: it has negatives; name the format of all records")
    scores = (*record.positive_scores, *record.negative_scores)
    scored = "scores" in row or "pos_scores" in row
    if len(scores) != (len(record.positives) + len(record.negatives) if scored else 0):
        raise ValueError(f"{what}: it has {len(scores)} scores; name the format of all records")
