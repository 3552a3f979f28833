"""What an epoch shows of each record: a query with some of its texts.

groups = Groups(records, mode="one_positive", num_negatives=7, seed=0)
batches = BatchesWithoutDuplicates(groups, batch_size=32, seed=0)
for batch in batches:                       # [(epoch, i), …]
    learner.collate([groups[key] for key in batch])

Nothing is remembered between draws: what `groups[epoch, i]` shows depends on (seed, epoch, i) alone, so that loader
workers and a resumed run see what an undisturbed one sees.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trainers.retrieval.batches import BatchesByLength, BatchesWithoutDuplicates, Key, Shown
from trainers.retrieval.records import Records

__all__ = ["BatchesByLength", "BatchesWithoutDuplicates", "Group", "Groups", "Key", "Mode"]

_SAME_QUESTION = 16  # records of a question whose answers are known to each other
Mode = Literal["one_positive", "sampled_positive", "all_texts"]


@dataclass(frozen=True, slots=True)
class Group:
    """A query and texts to be told apart. Labels are aligned with the texts."""

    query: str
    texts: tuple[str, ...]  # the positive first; in mode all_texts the file's order: positives, then negatives
    labels: tuple[float, ...]  # 1 and 0, or the file's scores


class Groups(Dataset[Group]):
    """Records as groups, indexed by (epoch, group).

    mode "one_positive": a group per (query, positive), so that every pair counts once an epoch; "sampled_positive": a
    group per record, its positive drawn anew each epoch; both with `num_negatives` drawn from the record. "all_texts":
    a group per record with all its texts; of more than `max_texts` a draw, always with one of the best and one of
    the worst label.

    labels "binary": 1 for positives, 0 for negatives; "scores": the file's, scaled evenly from [min_label, max_label]
    to [0, 1] where these are given (negatives without a score count as min_label); "auto": scores where every text has
    a label that way. `repeat_negatives`: a record with too few negatives shows some of them twice; without it that
    is an error.

    Raises ValueError, with file and line of the record, when the records cannot give what is asked.
    """

    def __init__(
        self,
        records: Records,
        *,
        mode: Mode,
        seed: int,
        num_negatives: int = 0,
        max_texts: int | None = None,
        labels: Literal["auto", "binary", "scores"] = "auto",
        min_label: float | None = None,
        max_label: float | None = None,
        repeat_negatives: bool = False,
    ) -> None:
        self.records, self.mode, self.seed = records, mode, seed
        self.num_negatives, self.max_texts = num_negatives, max_texts
        self._min_label, self._max_label = min_label, max_label
        if not len(records):
            raise ValueError("there are no records to train on")
        if labels == "auto":
            complete = records.scores == "all" or (records.scores == "positives" and min_label is not None)
            labels = "scores" if complete else "binary"
        self.labels: Literal["binary", "scores"] = labels
        if mode == "all_texts":
            _check_all_texts(records, labels, max_texts)
        else:
            _check_one_positive(records, num_negatives, repeat_negatives)
        if labels == "scores":
            _check_scores(records, min_label, max_label)
        # Where each record's groups end; one per record is the index itself.
        self._ends = np.cumsum(records.num_positives, dtype=np.int64) if mode == "one_positive" else None

    def __len__(self) -> int:
        return len(self.records) if self._ends is None else int(self._ends[-1])

    def __getitem__(self, key: Key) -> Group:
        index, positions = self._draw(*key)
        record = self.records[index]
        labels = self._labels(index)
        texts = record.positives + record.negatives
        return Group(record.query, tuple(texts[i] for i in positions), tuple(labels[positions].tolist()))

    # ---- for batches: what a group shows, without reading it ----

    def shown(self, key: Key) -> Shown:
        """Hashes of the group's question, of its texts, and of all the texts that answer the question."""
        index, positions = self._draw(*key)
        answers: set[int] = set()
        for record in self._same_question(index):
            answers.update(self.records.texts_of(record)["key"][: self.records.num_positives[record]].tolist())
        keys = self.records.texts_of(index)["key"]
        return Shown(int(self.records.questions[index]), set(keys[positions].tolist()), answers)

    @cached_property
    def _by_question(self) -> NDArray[np.int64]:
        """[records] all records, those of a question next to each other."""
        return np.argsort(self.records.questions, kind="stable")

    def _same_question(self, index: int) -> list[int]:
        """The records of its question, itself included; of very many only some."""
        if self.records.report.questions == self.records.report.records:
            return [index]
        question = self.records.questions[index]
        start = np.searchsorted(self.records.questions, question, sorter=self._by_question)
        near = self._by_question[start : start + _SAME_QUESTION]
        return [index, *near[self.records.questions[near] == question].tolist()]

    def length(self, key: Key) -> int:
        """Characters of the longest text, which decides what the group costs."""
        index, positions = self._draw(*key)
        return int(self.records.texts_of(index)["chars"][positions].max())

    # ---- drawing ----

    def _draw(self, epoch: int, group: int) -> tuple[int, list[int]]:
        """The record, and the places of its texts that are shown; positives come before negatives."""
        if not 0 <= group < len(self):
            raise IndexError(group)
        if self.mode == "all_texts":
            return group, self._draw_texts(epoch, group)
        rng = self._rng(epoch, group)
        if self._ends is None:
            index = group
            positive = rng.randrange(int(self.records.num_positives[index]))
        else:
            index = int(np.searchsorted(self._ends, group, side="right"))
            positive = group - (int(self._ends[index - 1]) if index else 0)
        first = int(self.records.num_positives[index])
        available = range(first, first + int(self.records.num_negatives[index]))
        if len(available) >= self.num_negatives:
            return index, [positive, *rng.sample(available, self.num_negatives)]
        more = rng.choices(available, k=self.num_negatives - len(available))
        return index, [positive, *rng.sample([*available, *more], self.num_negatives)]

    def _draw_texts(self, epoch: int, index: int) -> list[int]:
        count = len(self.records.texts_of(index))
        if self.max_texts is None or count <= self.max_texts:
            return list(range(count))
        rng = self._rng(epoch, index)
        order = rng.sample(range(count), count)
        labels = self._labels(index)
        best = max(order, key=labels.__getitem__)  # of equal ones the first in `order`
        worst = min((i for i in order if i != best), key=labels.__getitem__)
        others = [i for i in order if i not in (best, worst)]
        return sorted([best, worst, *others[: self.max_texts - 2]])

    def _rng(self, epoch: int, group: int) -> random.Random:
        return random.Random(f"{self.seed} {epoch} {group}")

    def _labels(self, index: int) -> NDArray[np.float64]:
        """[texts]"""
        texts = self.records.texts_of(index)
        if self.labels == "binary":
            return (np.arange(len(texts)) < self.records.num_positives[index]).astype(np.float64)
        scores = texts["score"]
        if self._min_label is None or self._max_label is None:
            return scores
        scores = np.where(np.isnan(scores), self._min_label, scores)
        return (scores - self._min_label) / (self._max_label - self._min_label)


# ---- what is asked against what there is -----------------------------------------------------------------------------


def _check_one_positive(records: Records, num_negatives: int, repeat: bool) -> None:
    if num_negatives < 0:
        raise ValueError(f"num_negatives={num_negatives} is below 0")
    if records.scores != "none" and "neg" not in records.report.fields:
        raise ValueError(
            f'{records.where(0)}: "pos" holds scored texts, good and bad, and this training needs right ones; '
            'train on the scores, or move the bad ones to "neg" and leave the scores out'
        )
    if not num_negatives:
        return
    if "neg" not in records.report.fields:
        raise ValueError(
            f'{records.where(0)}: no field "neg", and num_negatives={num_negatives} asks for some; mine hard negatives '
            "first, or set num_negatives=0"
        )
    short = np.flatnonzero(records.num_negatives < (1 if repeat else num_negatives))
    if len(short):
        count = records.num_negatives[short[0]]
        fewer = "lower num_negatives, mine more, or set repeat_negatives=true"
        remedy = "take such lines out, or mine more" if repeat else fewer
        raise ValueError(
            f"{records.where(int(short[0]))}: {count} usable negatives, and num_negatives={num_negatives} asks for "
            f"{num_negatives} ({len(short):,} of {len(records):,} records have too few; empty and repeated negatives, "
            f"and those that are positives too, do not count); {remedy}"
        )


def _check_all_texts(records: Records, labels: str, max_texts: int | None) -> None:
    if max_texts is not None and max_texts < 2:
        raise ValueError(f"max_texts={max_texts} leaves nothing to compare; give at least 2")
    if labels == "binary" and not records.num_negatives.any():
        raise ValueError(
            f"{records.where(0)}: no record has a negative, so all labels would be 1; mine hard negatives "
            "first, or give every text a score"
        )


def _check_scores(records: Records, min_label: float | None, max_label: float | None) -> None:
    if records.scores == "none":
        raise ValueError(f'{records.where(0)}: none of the fields "scores" and "pos_scores"; score the texts first')
    if (min_label is None) != (max_label is None):
        raise ValueError(f"min_label={min_label} and max_label={max_label}: give both or neither")
    if min_label is None or max_label is None:
        if records.scores == "positives":
            raise ValueError(
                f'{records.where(0)}: "neg" has no scores; give "neg_scores", or min_label and max_label: '
                "negatives then count as min_label"
            )
        return
    if min_label >= max_label:
        raise ValueError(f"min_label={min_label:g} has to be below max_label={max_label:g}")
    lowest, highest = records.report.lowest_score, records.report.highest_score
    if lowest is None or highest is None or (lowest >= min_label and highest <= max_label):
        return
    for index in range(len(records)):  # which line is it, and is it among those selected
        scores = records.texts_of(index)["score"]
        outside = scores[(scores < min_label) | (scores > max_label)]
        if len(outside):
            raise ValueError(
                f"{records.where(index)}: score {outside[0]:g} is outside min_label={min_label:g} … "
                f"max_label={max_label:g}; correct the score or the range (the file's is {lowest:g} … {highest:g})"
            )
