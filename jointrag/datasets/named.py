"""Public question sets by name: downloaded, or read from their published files, with a corpus.

Their questions come with labels where the set has them: gold passages from its supporting facts, sub-questions from its
decompositions. jointrag.datasets.published says how each is read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jointrag.config import FlashRagDataset, NamedDataset
from jointrag.corpus_files import Copied
from jointrag.datasets.downloads import corpus_file, from_hub
from jointrag.datasets.files import copy_corpus, corpus_metrics
from jointrag.datasets.published import SETS, Parsed, PublicSet
from jointrag.datasets.rows import find_splits, rows
from jointrag.datasets.splits import share_out, warn_of_near_duplicates
from jointrag.jsonl import write_jsonl
from jointrag.metrics import normalize
from jointrag.progress import progress
from jointrag.types import Passage, Question

logger = logging.getLogger(__name__)
Numbered = Iterable[tuple[str, Mapping[str, Any]]]  # where a row is from, for errors; the row


def prepare(config: NamedDataset | FlashRagDataset, *, seed: int, out: Path) -> dict[str, float]:
    """Write questions/{source,train,dev,test}.jsonl and corpus.jsonl below `out`.

    Raises ValueError naming the file, the row and the remedy, or what to put where when nothing can be downloaded.
    """
    name = config.name
    public = SETS[name]
    if config.path is not None:
        splits = {split: rows(file) for split, file in find_splits(config.path).items()}
    else:
        subset = config.subset if isinstance(config, FlashRagDataset) else public.hub.subset
        splits = from_hub(public.hub.path, subset, config.downloads / name)

    own = out / ".own.jsonl"
    published: dict[str, list[Question]] = {}
    try:
        write_jsonl(own, _read(splits, name, public, published))
        copied = _corpus(config, own, out)
    finally:
        own.unlink(missing_ok=True)
    made = share_out(published, config.num_train_questions, config.num_dev_questions, config.num_test_questions, seed)
    metrics = corpus_metrics(copied) | {"prepare/near_duplicates": float(warn_of_near_duplicates(made))}
    for split, questions in {"source": made["train"], **made}.items():
        metrics[f"prepare/{split}_questions"] = float(write_jsonl(out / "questions" / f"{split}.jsonl", questions))
    return metrics


def _corpus(config: NamedDataset | FlashRagDataset, own: Path, out: Path) -> Copied:
    if config.corpus == "own":
        return copy_corpus(own, out / "corpus.jsonl", "refuse")
    source = config.corpus if isinstance(config.corpus, Path) else corpus_file(config.corpus, config.downloads)
    return copy_corpus(source, out / "corpus.jsonl", config.on_bad_line)


def _read(
    splits: Mapping[str, Numbered], name: str, public: PublicSet, published: dict[str, list[Question]]
) -> Iterator[Passage]:
    """The paragraphs of all rows, each once; their questions go to `published`, by split."""
    seen: set[str] = set()
    for split, numbered in splits.items():
        questions: list[Question] = []
        num_without = 0
        for number, (where, row) in enumerate(progress(numbered, f"reading {split}, question"), 1):
            parsed = _parse(public, row, f"{where}: not a question of {name}")
            question = _with_answers(parsed.question)
            question = replace(question, id=question.id or f"{split}-{number}")
            num_without += not question.answers
            questions += [question] if question.answers else []
            for passage in parsed.passages:
                if passage.id not in seen and passage.text:
                    seen.add(passage.id)
                    yield passage
        if num_without:
            logger.warning("%d of %d questions of %s have no answer and are left out", num_without, number, split)
        if questions:
            published[split] = questions
    if not published:
        raise ValueError(f"{name}: no question with an answer was found")


def _parse(public: PublicSet, row: Mapping[str, Any], what: str) -> Parsed:
    try:
        return public.read(row)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{what} ({type(error).__name__}: {error}); is dataset.path another set's folder?") from None


def _with_answers(question: Question) -> Question:
    """Only answers that something is left of when they are compared."""
    return replace(question, answers=tuple(answer for answer in question.answers if normalize(answer)))
