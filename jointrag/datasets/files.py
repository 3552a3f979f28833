"""Your own data: a folder with a corpus and questions as JSON lines, checked as a whole before anything is trained.

    corpus.jsonl   {"id": "12", "title": "Silent Harbor", "text": "…"}            or another of jointrag.corpus_files
    train.jsonl    {"id": "q1", "text": "Who directed Silent Harbor?", "answers": ["Anna Berg"]}
    dev.jsonl, test.jsonl                                                         the same

Questions may say more: "type" (for tables), "gold_passages" (passage ids) and "sub_questions". The retriever and the
warm start learn from source.jsonl where there is one, else from train.jsonl.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from jointrag.config import ChunkingConfig, FilesDataset, OnBadLine
from jointrag.corpus_files import Copied, copy, find
from jointrag.datasets.documents import write_passages
from jointrag.datasets.questions import Placed, find_questions, read_questions
from jointrag.datasets.splits import warn_of_near_duplicates
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.types import Question

logger = logging.getLogger(__name__)
REQUIRED = ("train", "dev", "test")


def prepare(config: FilesDataset, *, seed: int, out: Path) -> dict[str, float]:
    """Check the folder and copy it into the stage's own form. Raises ValueError naming file, line and remedy."""
    if config.questions == "synthesise":
        return _synthesised(config, seed, out)
    folder = config.path
    assert folder is not None, "the settings see to it"
    corpus = config.documents or find(folder)
    files = {split: find_questions(folder, split) for split in REQUIRED}
    files = {"source": _source(folder, files["train"]), **files}
    placed = {path: read_questions(path, config.columns) for path in dict.fromkeys(files.values())}
    gold = {gold for rows in placed.values() for _, question in rows for gold in question.gold_passages}
    copied = copy_corpus(corpus, out / "corpus.jsonl", config.on_bad_line, gold, config.chunking)
    for rows in placed.values():
        _check_gold(rows, copied.found, corpus.name)

    asked = {path: [question for _, question in rows] for path, rows in placed.items()}
    duplicates = warn_of_near_duplicates({path.name: rows for path, rows in asked.items()})
    metrics = corpus_metrics(copied) | {"prepare/near_duplicates": float(duplicates)}
    for split, path in files.items():
        metrics[f"prepare/{split}_questions"] = float(write_jsonl(out / "questions" / f"{split}.jsonl", asked[path]))
    return metrics


def _synthesised(config: FilesDataset, seed: int, out: Path) -> dict[str, float]:
    from jointrag.datasets.synthesis import synthesise

    assert config.synthesis is not None, "the settings see to it"
    corpus = config.documents or find(config.path or Path())
    copied = copy_corpus(corpus, out / "corpus.jsonl", config.on_bad_line, (), config.chunking)
    metrics = synthesise(config.synthesis, out / "corpus.jsonl", seed=seed, out=out / "questions")
    count = write_jsonl(out / "questions" / "source.jsonl", read_jsonl(out / "questions" / "train.jsonl", Question))
    return corpus_metrics(copied) | metrics | {"prepare/source_questions": float(count)}


def _source(folder: Path, train: Path) -> Path:
    return find_questions(folder, "source") if any(folder.glob("source.*")) else train


def copy_corpus(
    source: Path,
    out: Path,
    on_bad_line: OnBadLine,
    wanted: Collection[str] = (),
    chunking: ChunkingConfig | None = None,
) -> Copied:
    """jointrag.corpus_files.copy, of a file or of a folder's documents, with a warning of what was left out."""
    if source.is_dir():
        chunks = out.with_name(".chunks.jsonl")
        try:
            write_passages(source, chunks, chunking or ChunkingConfig())
            return copy(chunks, out, "refuse", wanted)
        finally:
            chunks.unlink(missing_ok=True)
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


def _check_gold(questions: Sequence[Placed], found: Collection[str], corpus: str) -> None:
    for where, question in questions:
        for gold in question.gold_passages:
            if gold not in found:
                raise ValueError(f"{where}: gold passage {gold!r} is not in {corpus}; add it or drop the reference")
