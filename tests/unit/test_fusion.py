"""Reciprocal rank fusion, against values added up by hand."""

from __future__ import annotations

import numpy as np
import pytest

from jointrag.index.search import fuse


def test_places_in_both_rankings_win() -> None:
    positions, scores = fuse([np.array([[7, 3, 5]]), np.array([[3, 9, -1]])], k=5, constant=60)
    assert positions.tolist() == [[3, 7, 9, 5, -1]]
    assert scores[0].tolist() == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63, 0])


def test_equal_sums_keep_the_order_of_the_corpus_and_k_cuts() -> None:
    positions, _ = fuse([np.array([[8, 2], [1, 0]]), np.array([[2, 8], [0, 1]])], k=1, constant=1)
    assert positions.tolist() == [[2], [0]]


def test_nothing_found_and_nothing_asked() -> None:
    none = np.full((2, 3), -1)
    positions, scores = fuse([none, none], k=2, constant=60)
    assert (positions == -1).all() and (scores == 0).all()
    assert fuse([none[:0], none[:0]], k=2, constant=60)[0].shape == (0, 2)
