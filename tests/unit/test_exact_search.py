"""Exact search in blocks, against a sort of all scores. Models are in integration/test_rankings.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.rankings import load_model
from jointrag.index import exact
from jointrag.index.exact import nearest


def by_sorting(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    scores = queries @ vectors.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(scores, best, axis=1)


@pytest.mark.parametrize("whole_numbers", [False, True])
@pytest.mark.parametrize("k", [1, 7, 2_000])
def test_blocks_find_what_sorting_everything_finds(
    k: int, whole_numbers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_QUERIES_AT_ONCE", 7)  # queries come in blocks as well
    rng = np.random.default_rng(0)
    # of small whole numbers most scores are equal, and sums are exact in any order
    queries, vectors = (
        (rng.integers(-2, 3, shape) if whole_numbers else rng.normal(size=shape)).astype(np.float32)
        for shape in ((30, 4), (900, 4))
    )
    positions, scores = nearest(queries, [vectors[:200], vectors[200:201], vectors[201:201], vectors[201:]], k)
    expected, expected_scores = by_sorting(queries, vectors, k)
    assert positions.shape == (30, min(k, 900))
    if whole_numbers:
        np.testing.assert_array_equal(positions, expected)
        np.testing.assert_array_equal(scores, expected_scores)
    else:
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-5, atol=1e-6)
        assert (positions == expected).mean() > 0.99


def test_minus_zero_is_zero() -> None:
    vectors = np.array([[0.0], [-0.0], [1.0], [-1.0]], dtype=np.float32)
    positions, scores = nearest(np.array([[-1.0]], dtype=np.float32), [vectors], 4)
    assert positions.tolist() == [[3, 0, 1, 2]]
    assert scores.tolist() == [[1, 0, 0, -1]]


def test_nothing_to_search() -> None:
    assert nearest(np.zeros((2, 3), np.float32), [], 5)[0].shape == (2, 0)
    assert nearest(np.zeros((0, 3), np.float32), [np.zeros((4, 3), np.float32)], 5)[0].shape == (0, 4)


def test_what_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a number"):
        nearest(np.full((1, 2), np.nan, np.float32), [np.zeros((4, 2), np.float32)], 2)
    with pytest.raises(ValueError, match="k=0"):
        nearest(np.zeros((1, 2), np.float32), [np.zeros((4, 2), np.float32)], 0)


@pytest.mark.parametrize(
    "files, found",
    [
        ({"config_sentence_transformers.json": {"model_type": "CrossEncoder"}}, "reranker"),
        ({"config_sentence_transformers.json": {"model_type": "MultiVectorEncoder"}}, "late_interaction"),
        ({"config_sentence_transformers.json": {"model_type": "ColBERT"}}, "late_interaction"),
        ({"config_sentence_transformers.json": {"query_prefix": "[Q] "}}, "late_interaction"),
        ({"config_sentence_transformers.json": {"__version__": {}}, "modules.json": []}, "embedding"),
        ({"config.json": {"architectures": ["HF_ColBERT"]}}, "late_interaction"),
        ({"config.json": {"architectures": ["BertForSequenceClassification"]}}, "reranker"),
        ({"config.json": {"architectures": ["BertModel"]}}, "embedding"),
    ],
)
def test_a_model_is_not_loaded_as_another_kind(files: dict[str, object], found: str, tmp_path: Path) -> None:
    for name, content in ({"config.json": {}} | files).items():
        (tmp_path / name).write_text(json.dumps(content))
    for kind in {"embedding", "late_interaction", "reranker"} - {found}:
        with pytest.raises(ValueError, match=f"holds a model of kind {found}, not {kind}"):
            load_model(tmp_path, kind)  # type: ignore[arg-type]


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a model folder"):
        load_model(tmp_path, "embedding")
