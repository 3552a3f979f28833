"""Questions whose positives are known, to find negatives for: from a training file, or prepared questions.

known = open_known(Path("train.jsonl"), cache=Path("work"))
for question in known.read(corpus, bare=False): ...
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from jointrag.corpus import Corpus
from jointrag.jsonl import read_jsonl
from jointrag.metrics import normalize
from jointrag.types import Question
from trainers.retrieval.records import Records, open_records

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """A question with texts that answer it."""

    query: str
    searched: str  # the query, perhaps without its prompt
    positives: tuple[str, ...]
    answering: frozenset[str]  # `comparable` forms of all positives of this question, on any line
    answers: tuple[str, ...] = ()


class KnownQuestions(Protocol):
    def __len__(self) -> int: ...

    def read(self, corpus: Corpus, bare: bool) -> Iterator[Known]:
        """All of them, in the order of the file. `bare`: search without the prompts that a file puts before queries."""
        ...


def comparable(text: str) -> str:
    """Equal for texts that differ in case, punctuation, spacing or a line break after the title."""
    return normalize(text) or text


def open_known(data: Path, cache: Path) -> KnownQuestions:
    """A training file, or questions (jointrag.types.Question) with gold_passages; `cache` holds what is read.

    Raises ValueError for broken lines, and where no positives are known.
    """
    return _Questions(data) if _holds_questions(data) else _Lines(data, cache)


def _holds_questions(data: Path) -> bool:
    """By the first line. What is no JSON, or no file, is left to who reads it all."""
    try:
        with data.open("rb") as file:
            row = json.loads(next(line for line in file if line.strip()))
    except (OSError, ValueError, StopIteration):
        return False
    return isinstance(row, dict) and {"id", "text"} <= set(row) and "query" not in row


class _Lines:
    def __init__(self, data: Path, cache: Path) -> None:
        self._data, self._cache = data, cache
        self._records = open_records(data, cache=cache / "records")
        if self._records.format in ("scored", "graded", "teacher"):
            raise ValueError(
                f"{data}: its format is {self._records.format}, whose texts have scores and are no sure positives; "
                'give lines with "query" and "pos" (and "neg")'
            )
        if "neg" in self._records.report.fields:
            logger.info("%s: its negatives are left out, mined ones take their place", data)

    def __len__(self) -> int:
        return len(self._records)

    def read(self, corpus: Corpus, bare: bool) -> Iterator[Known]:
        """See KnownQuestions."""
        searched = self._records
        if bare:
            searched = open_records(self._data, cache=self._cache / "records", prompt_format="{query}")
        elsewhere = _other_lines(self._records)
        for i, (record, asked) in enumerate(zip(self._records, searched, strict=True)):
            others = [text for j in elsewhere.get(i, ()) for text in self._records[j].positives]
            answering = frozenset(map(comparable, (*record.positives, *others)))
            yield Known(record.query, asked.query, record.positives, answering)


def _other_lines(records: Records) -> dict[int, list[int]]:
    """For lines whose question is on several: those that have it."""
    _, question, count = np.unique(records.questions, return_inverse=True, return_counts=True)
    lines = defaultdict(list)
    for i in np.flatnonzero(count[question] > 1).tolist():
        lines[int(question[i])].append(i)
    return {i: same for same in lines.values() for i in same}


class _Questions:
    def __init__(self, data: Path) -> None:
        self._data = data
        everything = list(read_jsonl(data, Question))
        self._questions = [question for question in everything if question.gold_passages]
        if not self._questions:
            raise ValueError(f"{data}: no question has gold_passages; negatives need to know what is positive")
        if missing := len(everything) - len(self._questions):
            logger.info("%s: %d of %d questions have no gold_passages and are left out", data, missing, len(everything))

    def __len__(self) -> int:
        return len(self._questions)

    def read(self, corpus: Corpus, bare: bool) -> Iterator[Known]:
        """See KnownQuestions. Raises ValueError for a gold passage that the corpus does not have."""
        places = gold_places(self._data, self._questions, corpus)
        same: dict[str, set[str]] = defaultdict(set)
        for question in self._questions:
            same[comparable(question.text)] |= set(question.gold_passages)
        for question in self._questions:
            positives = tuple(corpus[places[name]].contents for name in question.gold_passages)
            others = same[comparable(question.text)] - set(question.gold_passages)
            answering = frozenset(map(comparable, (*positives, *(corpus[places[name]].contents for name in others))))
            yield Known(question.text, question.text, positives, answering, question.answers)


def gold_places(data: Path, questions: Iterable[Question], corpus: Corpus) -> dict[str, int]:
    """Where in the corpus the gold passages of all questions are, by id. Raises ValueError for one that is not."""
    wanted = {name: question for question in questions for name in question.gold_passages}
    found = {passage.id: place for place, passage in enumerate(corpus) if passage.id in wanted}
    for name, question in wanted.items():
        if name not in found:
            raise ValueError(f"{data}: question {question.id!r}: no passage {name!r} in the corpus")
    return found
