"""Data sets: every source yields the same files, `corpus.jsonl` (passages) and `questions/<split>.jsonl`.

Splits: `source` (retriever and warm start), `train` (MAPPO: questions and answers), `dev`, `test`.
A new source is one file with a `prepare` function, one config class and one line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from jointrag.config import Dataset
from jointrag.datasets.published import SETS

SPLITS = ("source", "train", "dev", "test")
SOURCES = {
    "synthetic": "jointrag.datasets.synthetic",
    "files": "jointrag.datasets.files",
    "corpus": "jointrag.datasets.corpus_only",
    **dict.fromkeys(SETS, "jointrag.datasets.named"),
}


def prepare(config: Dataset, *, seed: int, out: Path) -> dict[str, float]:
    """Write the data set below `out`; returns the counts. Broken input: a ValueError naming file, line and remedy."""
    source: Callable[..., dict[str, float]] = import_module(SOURCES[config.name]).prepare
    return source(config, seed=seed, out=out)
