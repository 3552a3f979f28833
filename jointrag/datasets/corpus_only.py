"""Passages without questions: for a retriever that learns from a training file of its own (retriever.data)."""

from __future__ import annotations

from pathlib import Path

from jointrag.config import CorpusDataset
from jointrag.datasets.files import read_passages
from jointrag.jsonl import write_jsonl


def prepare(config: CorpusDataset, *, seed: int, out: Path) -> dict[str, float]:
    """Check the passages and copy them. Raises ValueError naming file, line and remedy."""
    count = write_jsonl(out / "corpus.jsonl", read_passages(config.path).values())
    write_jsonl(out / "questions" / "dev.jsonl", ())
    return {"prepare/passages": float(count)}
