"""Questions with gold passages, as the pipeline prepares them or a training file has them: to train on, to evaluate on.

pairs = read_pairs(prepared / "questions/source.jsonl", passages)
held = held_out(records, rest)                          # questions of a training file, their texts among others
metrics = retrieval_metrics(encoder, held)              # {"ndcg@10": …, "recall@1": …, …}
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evaluation.rankings import search
from evaluation.retrieval import measure
from jointrag.encoders import Encoder
from jointrag.jsonl import read_jsonl
from jointrag.types import Passage, Question
from trainers.retrieval.records import Record, Records

METRICS = ("ndcg@10", "recall@1", "recall@5", "recall@10", "mrr@10", "map@10")
# A check while training, not a result: some questions, among their gold passages and a sample of the others.
_MOST_QUESTIONS = 1_000
_MOST_PASSAGES = 10_000


@dataclass(frozen=True)
class Held:
    """Questions, the passages to find theirs among, and which those are: positions in `passages`."""

    questions: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    gold: tuple[frozenset[int], ...] = ()


class Corpus:
    """The prepared passages by id, read when they are first asked for: not every training needs them."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @cached_property
    def passages(self) -> dict[str, Passage]:
        return {} if self._path is None else {passage.id: passage for passage in read_jsonl(self._path, Passage)}


def read_pairs(path: Path, passages: dict[str, Passage]) -> list[tuple[str, str]]:
    """(question, contents of a gold passage): one pair per gold passage.

    Raises ValueError for a gold passage that the corpus does not have.
    """
    return [
        (question.text, passages[passage_id].contents)
        for question in read_jsonl(path, Question)
        for passage_id in _gold(path, question, passages)
    ]


def read_dev(path: Path, corpus: Corpus, seed: int) -> Held:
    """The first dev questions whose gold passages are known. Raises ValueError as `read_pairs` does."""
    questions = [question for question in read_jsonl(path, Question) if question.gold_passages][:_MOST_QUESTIONS]
    if not questions:
        return Held()
    passages = corpus.passages
    gold = [[passages[name].contents for name in _gold(path, question, passages)] for question in questions]
    return _held([q.text for q in questions], gold, [p.contents for p in passages.values()], seed)


def held_out(records: Records, others: Records, seed: int) -> Held:
    """Questions of a training file; the texts of `others` are there to be mistaken for theirs.

    Where texts have scores, the best ones are gold.
    """
    questions, gold, texts = [], [], []
    for record in records:
        texts += [*record.positives, *record.negatives]
        if len(questions) < _MOST_QUESTIONS:
            questions.append(record.query)
            gold.append(_best(record))
    for record in others:
        if len(texts) >= _MOST_PASSAGES:
            break
        texts += [*record.positives, *record.negatives]
    return _held(questions, gold, texts, seed)


def retrieval_metrics(encoder: Encoder, held: Held) -> dict[str, float]:
    """METRICS, mean over questions; nothing without questions."""
    if not held.questions:
        return {}
    rankings = search(encoder, held.questions, held.passages, k=10)
    return measure(rankings, held.gold, METRICS).means()


def _gold(path: Path, question: Question, passages: dict[str, Passage]) -> Iterable[str]:
    for passage_id in question.gold_passages:
        if passage_id not in passages:
            raise ValueError(f"{path}: question {question.id!r}: no passage {passage_id!r} in the corpus")
    return question.gold_passages


def _best(record: Record) -> list[str]:
    if not record.positive_scores:
        return list(record.positives)
    best = max(record.positive_scores)
    return [text for text, score in zip(record.positives, record.positive_scores, strict=True) if score == best]


def _held(questions: list[str], gold: list[list[str]], texts: list[str], seed: int) -> Held:
    rng = random.Random(seed)
    wanted = list(dict.fromkeys(text for texts_of_one in gold for text in texts_of_one))
    others = list(dict.fromkeys(texts).keys() - set(wanted))
    others.sort()  # a set has no order of its own
    room = max(0, _MOST_PASSAGES - len(wanted))
    passages = [*wanted, *(rng.sample(others, room) if len(others) > room else others)]
    rng.shuffle(passages)  # among equal scores the first one wins: that must not be the gold one by its place
    positions = {text: position for position, text in enumerate(passages)}
    return Held(
        tuple(questions), tuple(passages), tuple(frozenset(positions[text] for text in texts) for texts in gold)
    )
