"""Queries with the texts that answer them and those that do not, as one corpus, gold and candidates.

    judged = Judged.of(held_out)                         # records with query, positives, negatives
    judged = Judged.read(Path("dev.jsonl"))              # the same from a file in the training format
    measure(search(encoder, judged.queries, judged.corpus, k=10), judged.gold)            # over all its texts
    measure(rank(model, judged.queries, judged.corpus, judged.candidates), judged.gold)   # among a query's own

A text that several records have is one document; a query that several records have is one query with all their texts.
The corpus and each query's candidates are in random order: a training file has the positives first, and a ranking keeps
the order it was given where scores are equal.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from jointrag.jsonl import read_numbered

logger = logging.getLogger(__name__)


class LabelledQuery(Protocol):
    """A line of a training file. Scores are aligned with the texts, or empty."""

    @property
    def query(self) -> str: ...
    @property
    def positives(self) -> Sequence[str]: ...
    @property
    def negatives(self) -> Sequence[str]: ...
    @property
    def positive_scores(self) -> Sequence[float]: ...
    @property
    def negative_scores(self) -> Sequence[float]: ...


@dataclass(frozen=True, slots=True)
class Judged:
    """Documents are positions in `corpus`."""

    queries: tuple[str, ...]
    corpus: tuple[str, ...]
    gold: tuple[dict[int, float], ...]  # [queries] the gain of each candidate, 0 where it does not answer
    candidates: tuple[tuple[int, ...], ...]  # [queries] the texts that the file gives for the query

    @classmethod
    def of(cls, records: Iterable[LabelledQuery], *, relevant_from: float | None = None, seed: int = 0) -> Judged:
        """Gains are 1 for positives and 0 for negatives, whatever a teacher scored them. Two exceptions:

        - positives that have scores where negatives have none are told apart by these: whole numbers from 0 (grades)
          are the gains;
        - with `relevant_from`, a scored text has a gain of 1 if its score is at least that, else 0.

        A query without a relevant text is left out, and counted in the log; its texts stay in the corpus. Raises
        ValueError where no query is left, or where scores are needed and are no grades.
        """
        records = list(records)
        graded = any(record.positive_scores for record in records) and not any(r.negative_scores for r in records)
        gains: dict[str, dict[str, float]] = {}
        for record in records:
            of_query = gains.setdefault(record.query, {})
            for text, gain in _gains(record, graded, relevant_from):
                of_query[text] = max(gain, of_query.get(text, 0.0))
        answered = {query: texts for query, texts in gains.items() if any(gain > 0 for gain in texts.values())}
        if not answered:
            raise ValueError("no query has a relevant text, so nothing can be measured; give some, or a lower score")
        if len(answered) < len(gains):
            logger.warning("%d of %d queries have no relevant text: left out", len(gains) - len(answered), len(gains))
        rng = random.Random(seed)
        corpus = list(dict.fromkeys(text for texts in gains.values() for text in texts))
        rng.shuffle(corpus)
        position = {text: i for i, text in enumerate(corpus)}
        gold = tuple({position[text]: gain for text, gain in texts.items()} for texts in answered.values())
        return cls(tuple(answered), tuple(corpus), gold, tuple(tuple(rng.sample(list(row), len(row))) for row in gold))

    @classmethod
    def read(cls, path: Path, *, relevant_from: float | None = None, seed: int = 0) -> Judged:
        """`of` the lines of a training file. Raises ValueError with file, line and remedy."""
        lines = []
        for number, line in read_numbered(path, _Line):
            for texts, scores in ((line.positives, line.positive_scores), (line.negatives, line.negative_scores)):
                if scores and len(scores) != len(texts):
                    raise ValueError(
                        f"{path}, line {number}: {len(texts)} texts with {len(scores)} scores; give one score per text"
                    )
            lines.append(replace(line, query=(line.prompt_for_query or line.prompt) + line.query))
        try:
            return cls.of(lines, relevant_from=relevant_from, seed=seed)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _gains(record: LabelledQuery, graded: bool, relevant_from: float | None) -> Iterator[tuple[str, float]]:
    for texts, scores, gain in (
        (record.positives, record.positive_scores, 1.0),
        (record.negatives, record.negative_scores, 0.0),
    ):
        if not scores or not (graded or relevant_from is not None):
            yield from ((text, gain) for text in texts)
            continue
        for text, score in zip(texts, scores, strict=True):
            if relevant_from is not None:
                yield text, float(score >= relevant_from)
            elif score < 0 or score != int(score):
                raise ValueError(
                    f"query {record.query!r:.60}: a text has the score {score:g}, which is no grade (0, 1, 2 …); say "
                    "from which score on a text is relevant (--relevant-from, relevant_from=)"
                )
            else:
                yield text, float(score)


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line of a training file may have (docs/retrieval-training.md)."""

    query: str
    pos: str | tuple[str, ...]
    neg: str | tuple[str, ...] = ()
    scores: tuple[float, ...] = ()  # of pos
    pos_scores: tuple[float, ...] = ()
    neg_scores: tuple[float, ...] = ()
    prompt: str = ""
    prompt_for_query: str = ""
    type: str = ""

    @property
    def positives(self) -> tuple[str, ...]:
        return (self.pos,) if isinstance(self.pos, str) else self.pos

    @property
    def negatives(self) -> tuple[str, ...]:
        return (self.neg,) if isinstance(self.neg, str) else self.neg

    @property
    def positive_scores(self) -> tuple[float, ...]:
        return self.scores or self.pos_scores

    @property
    def negative_scores(self) -> tuple[float, ...]:
        return self.neg_scores
