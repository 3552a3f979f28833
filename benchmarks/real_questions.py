"""Real multi-hop questions with their gold passages: samples of HotpotQA and MuSiQue in their published formats.

    data = load(Path("../shared/data"))
    first, second = halves(data.asked, seed=0)
    data.texts[next(iter(first[0].gold))]            # a gold passage as it is embedded: "title\\ntext"

A folder of samples holds hotpotqa/ and musique/, each with train.json (questions as published). Each source has a
corpus of its own: the passages that come with its questions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jointrag.datasets.published import SETS
from jointrag.datasets.rows import rows
from jointrag.types import Passage, Question

SOURCES = ("hotpotqa", "musique")
_PASSAGES_PER_QUESTION = 10  # besides the gold ones, where only some questions are taken


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and the positions of its gold passages in RealQuestions.passages."""

    source: str
    question: Question
    gold: frozenset[int]


@dataclass(frozen=True)
class RealQuestions:
    """All sources, one after the other; `part` says which passages are a source's."""

    asked: tuple[Asked, ...]
    passages: tuple[Passage, ...]
    part: dict[str, range]

    @cached_property
    def texts(self) -> list[str]:
        return [passage.contents for passage in self.passages]


def load(samples: Path, most_questions: int | None = None) -> RealQuestions:
    """Read all sources; with `most_questions`, so many of each, among a sample of its passages.

    Raises ValueError naming the file that is missing.
    """
    asked: list[Asked] = []
    passages: list[Passage] = []
    part: dict[str, range] = {}
    for source in SOURCES:
        questions, corpus = _read(source, samples / source)
        if most_questions is not None:
            questions = questions[:most_questions]
            corpus = _some(corpus, questions)
        position = {passage.id: len(passages) + i for i, passage in enumerate(corpus)}
        asked += [Asked(source, q, frozenset(position[name] for name in q.gold_passages)) for q in questions]
        part[source] = range(len(passages), len(passages) + len(corpus))
        passages += corpus
    return RealQuestions(tuple(asked), tuple(passages), part)


def halves(asked: Sequence[Asked], seed: int) -> tuple[list[Asked], list[Asked]]:
    """Two halves with as many questions of each source (one more or less); no gold passage is in both."""
    parts: tuple[list[Asked], list[Asked]] = ([], [])
    rng = random.Random(seed)
    for source in SOURCES:
        together = _sharing_passages([one for one in asked if one.source == source])
        rng.shuffle(together)
        together.sort(key=len, reverse=True)  # single questions last: they even out what is left
        sides: tuple[list[Asked], list[Asked]] = ([], [])
        for group in together:
            min(sides, key=len).extend(group)
        for part, side in zip(parts, sides, strict=True):
            part += side
    return parts


def _sharing_passages(asked: Sequence[Asked]) -> list[list[Asked]]:
    """Questions that have a gold passage in common, directly or by way of others, in one list."""
    groups: list[tuple[set[int], list[Asked]]] = []
    for one in asked:
        gold, members = set(one.gold), [one]
        for group in [group for group in groups if group[0] & gold]:
            groups.remove(group)
            gold |= group[0]
            members = group[1] + members
        groups.append((gold, members))
    return [members for _, members in groups]


def _some(corpus: Sequence[Passage], questions: Sequence[Question]) -> list[Passage]:
    gold = {name for question in questions for name in question.gold_passages}
    others = [passage.id for passage in corpus if passage.id not in gold]
    count = min(len(others), _PASSAGES_PER_QUESTION * len(questions))
    kept = gold | set(random.Random(0).sample(others, count))
    return [passage for passage in corpus if passage.id in kept]


def _read(source: str, folder: Path) -> tuple[list[Question], list[Passage]]:
    """Questions, and the passages that are published with them, each once."""
    file = folder / "train.json"
    if not file.is_file():
        raise ValueError(
            f"{file} is missing; a folder of samples (--samples) holds hotpotqa/ and musique/, each with train.json as "
            "published"
        )
    parsed = [SETS[source].read(row) for _, row in rows(file)]
    passages = {passage.id: passage for one in parsed for passage in one.passages}
    return [one.question for one in parsed], list(passages.values())
