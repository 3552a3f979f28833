"""Passages without questions: for a retriever that learns from a training file of its own (retriever.data)."""

from __future__ import annotations

from pathlib import Path

from jointrag.config import CorpusDataset
from jointrag.datasets.files import copy_corpus, corpus_metrics
from jointrag.jsonl import write_jsonl


def prepare(config: CorpusDataset, *, seed: int, out: Path) -> dict[str, float]:
    """Check the passages and copy them. Raises ValueError naming file, line and remedy."""
    copied = copy_corpus(config.path, out / "corpus.jsonl", config.on_bad_line, chunking=config.chunking)
    write_jsonl(out / "questions" / "dev.jsonl", ())
    return corpus_metrics(copied)
