"""Your own data: a folder with a corpus and questions as JSON lines, checked as a whole before anything is trained.

    corpus.jsonl   {"id": "12", "title": "Silent Harbor", "text": "…"}            title may be missing
    train.jsonl    {"id": "q1", "text": "Who directed Silent Harbor?", "answers": ["Anna Berg"]}
    dev.jsonl, test.jsonl                                                         the same

Questions may say more: "type" (for tables), "gold_passages" (passage ids) and "sub_questions". The retriever and the
warm start learn from source.jsonl where there is one, else from train.jsonl.
"""

from __future__ import annotations

import logging
from pathlib import Path

from jointrag.config import FilesDataset
from jointrag.jsonl import read_numbered, write_jsonl
from jointrag.metrics import normalize
from jointrag.types import Passage, Question

logger = logging.getLogger(__name__)
REQUIRED = ("train", "dev", "test")


def prepare(config: FilesDataset, *, seed: int, out: Path) -> dict[str, float]:
    """Check the folder and copy it into the stage's own form. Raises ValueError naming file, line and remedy."""
    folder = config.path
    corpus = read_passages(folder / "corpus.jsonl")
    write_jsonl(out / "corpus.jsonl", corpus.values())
    metrics = {"prepare/passages": float(len(corpus))}
    split_of: dict[str, str] = {}
    for split in ("source", *REQUIRED):
        path = folder / f"{split}.jsonl"
        if split == "source" and not path.is_file():
            path = folder / "train.jsonl"
        questions = read_questions(path, corpus)
        if path.stem == split:
            _warn_of_shared(questions, split, split_of)
        metrics[f"prepare/{split}_questions"] = float(write_jsonl(out / "questions" / f"{split}.jsonl", questions))
    return metrics


def _warn_of_shared(questions: list[Question], split: str, split_of: dict[str, str]) -> None:
    """Questions that are in an earlier split too make the scores look better than they are."""
    shared = [q for q in questions if split_of.setdefault(q.text.casefold(), split) != split]
    if shared:
        other = split_of[shared[0].text.casefold()]
        logger.warning(
            "%d questions of %s.jsonl are in another split too (the first: %r, in %s.jsonl); scores on them say little",
            len(shared),
            split,
            shared[0].id,
            other,
        )


def read_passages(path: Path) -> dict[str, Passage]:
    """Passages by id; ids are unique and texts are not empty."""
    passages: dict[str, Passage] = {}
    for line, passage in read_numbered(path, Passage, defaults={"title": ""}):
        if not passage.text.strip():
            raise ValueError(f"{path}, line {line}: passage {passage.id!r} has no text; remove it or give it one")
        if passage.id in passages:
            raise ValueError(f"{path}, line {line}: passage id {passage.id!r} was used before; ids must be unique")
        passages[passage.id] = passage
    if not passages:
        raise ValueError(f"{path}: no passages; write one JSON object per line with id, title and text")
    return passages


def read_questions(path: Path, corpus: dict[str, Passage]) -> list[Question]:
    """Questions in order; each has an answer, and its gold passages are in the corpus."""
    questions: dict[str, Question] = {}
    for line, question in read_numbered(path, Question):
        where = f"{path}, line {line}: question {question.id!r}"
        if not question.text.strip():
            raise ValueError(f"{where} has no text; remove it or give it one")
        if not question.answers:
            raise ValueError(f'{where} has no answer; give at least one, "answers": ["…"]')
        for answer in question.answers:
            if not normalize(answer):  # an empty response would match it
                raise ValueError(f"{where}: nothing of the answer {answer!r} is left to compare; remove it")
        if question.id in questions:
            raise ValueError(f"{where}: this id was used before; ids must be unique")
        for gold in question.gold_passages:
            if gold not in corpus:
                raise ValueError(f"{where}: gold passage {gold!r} is not in corpus.jsonl; add it or drop the reference")
        questions[question.id] = question
    if not questions:
        raise ValueError(f"{path}: no questions; write one JSON object per line with id, text and answers")
    return list(questions.values())
