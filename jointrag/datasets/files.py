"""Your own data: a folder with a corpus and questions as JSON lines, checked as a whole before anything is trained.

    corpus.jsonl   {"id": "12", "title": "Silent Harbor", "text": "…"}            or another of jointrag.corpus_files
    train.jsonl    {"id": "q1", "text": "Who directed Silent Harbor?", "answers": ["Anna Berg"]}
    dev.jsonl, test.jsonl                                                         the same

Questions may say more: "type" (for tables), "gold_passages" (passage ids) and "sub_questions". The retriever and the
warm start learn from source.jsonl where there is one, else from train.jsonl.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from jointrag.config import FilesDataset, OnBadLine
from jointrag.corpus_files import Copied, copy, find
from jointrag.datasets.splits import warn_of_near_duplicates
from jointrag.jsonl import read_numbered, write_jsonl
from jointrag.metrics import normalize
from jointrag.types import Question

logger = logging.getLogger(__name__)
REQUIRED = ("train", "dev", "test")


def prepare(config: FilesDataset, *, seed: int, out: Path) -> dict[str, float]:
    """Check the folder and copy it into the stage's own form. Raises ValueError naming file, line and remedy."""
    folder = config.path
    corpus = find(folder)
    files = {split: folder / f"{split}.jsonl" for split in ("source", *REQUIRED)}
    if not files["source"].is_file():
        files["source"] = files["train"]
    questions = {path: read_questions(path) for path in dict.fromkeys(files.values())}
    gold = {gold for rows in questions.values() for _, question in rows for gold in question.gold_passages}
    copied = copy_corpus(corpus, out / "corpus.jsonl", config.on_bad_line, gold)
    for path, rows in questions.items():
        _check_gold(path, rows, copied.found, corpus.name)

    asked = {path: [question for _, question in rows] for path, rows in questions.items()}
    duplicates = warn_of_near_duplicates({path.name: rows for path, rows in asked.items()})
    metrics = corpus_metrics(copied) | {"prepare/near_duplicates": float(duplicates)}
    for split, path in files.items():
        metrics[f"prepare/{split}_questions"] = float(write_jsonl(out / "questions" / f"{split}.jsonl", asked[path]))
    return metrics


def copy_corpus(source: Path, out: Path, on_bad_line: OnBadLine, wanted: Collection[str] = ()) -> Copied:
    """jointrag.corpus_files.copy, with a warning of what was left out."""
    copied = copy(source, out, on_bad_line, wanted)
    if copied.problems.counts:
        logger.warning("%s; they are left out", copied.problems)
    return copied


def corpus_metrics(copied: Copied) -> dict[str, float]:
    """Passages, and lines that were left out."""
    return {
        "prepare/passages": float(copied.num_passages),
        "prepare/left_out": float(copied.problems.counts.total()),
    }


def read_questions(path: Path) -> list[tuple[int, Question]]:
    """Questions with their line numbers, in order; each has an answer."""
    questions: list[tuple[int, Question]] = []
    taken: set[str] = set()
    for line, question in read_numbered(path, Question):
        where = f"{path}, line {line}: question {question.id!r}"
        if not question.text.strip():
            raise ValueError(f"{where} has no text; remove it or give it one")
        if not question.answers:
            raise ValueError(f'{where} has no answer; give at least one, "answers": ["…"]')
        for answer in question.answers:
            if not normalize(answer):  # an empty response would match it
                raise ValueError(f"{where}: nothing of the answer {answer!r} is left to compare; remove it")
        if question.id in taken:
            raise ValueError(f"{where}: this id was used before; ids must be unique")
        taken.add(question.id)
        questions.append((line, question))
    if not questions:
        raise ValueError(f"{path}: no questions; write one JSON object per line with id, text and answers")
    return questions


def _check_gold(path: Path, questions: list[tuple[int, Question]], found: Collection[str], corpus: str) -> None:
    for line, question in questions:
        for gold in question.gold_passages:
            if gold not in found:
                raise ValueError(
                    f"{path}, line {line}: question {question.id!r}: gold passage {gold!r} is not in {corpus}; add it "
                    "or drop the reference"
                )
