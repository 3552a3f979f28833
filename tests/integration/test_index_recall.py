"""recall@10 of an index: what is measured, on which queries, and where it ends up."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jointrag.config import IndexConfig
from jointrag.index import Shards, build, load
from jointrag.index.recall import recall, sample_queries
from jointrag.index.search import open_dense


def test_recall_is_the_share_of_the_ten_nearest(index_dir: Path) -> None:
    vectors = Shards.open(index_dir / "vectors").vectors()
    rows, queries = vectors[np.arange(128)], vectors[np.arange(0, 128, 8)]

    class Misses:
        """Finds the first 7 of the 10 nearest, then nothing."""

        def nearest(self, queries: Any, k: int) -> Any:
            order = np.argsort(-(queries @ rows.T), axis=1)[:, :k]
            order[:, 7:] = -1
            return order, np.zeros(order.shape, dtype=np.float32)

    assert recall(Misses(), vectors, queries, "cpu") == pytest.approx(0.7)
    assert recall(open_dense(index_dir, IndexConfig(), vectors, "cpu"), vectors, queries, "cpu") == 1


def test_recall_of_a_hasty_search_is_measured_stored_and_less(
    world: Path, retriever_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = IndexConfig(factory="IVF16,Flat", nprobe=1)
    with caplog.at_level(logging.INFO, "jointrag.index"):
        metrics = build(config, prepared=world, retriever=retriever_dir, out=tmp_path, device="cpu")
    order = [
        next(i for i, line in enumerate(caplog.messages) if part in line)
        for part in (
            "IVF16,Flat: 128 vectors, trained on 128 of them; about",
            "IVF16,Flat: trained",
            "recall@10 against",
        )
    ]
    assert order == sorted(order)
    assert 0.1 < metrics["index/recall@10"] < 0.95
    assert load(tmp_path, "cpu").info.recall_at_10 == metrics["index/recall@10"]


def test_queries_are_questions_or_else_beginnings_of_passages(world: Path, index_dir: Path, tmp_path: Path) -> None:
    corpus = load(index_dir, "cpu").corpus
    drawn = sample_queries(world, corpus, 20)
    assert drawn == sample_queries(world, corpus, 20)
    assert len(drawn) == 20 and all(text.endswith("?") for text in drawn)
    assert {"Ada Adler", "Hugo Haas"} < set(sample_queries(tmp_path, corpus, 128))
    assert len(sample_queries(tmp_path, corpus, 5)) == 5
