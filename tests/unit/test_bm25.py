"""BM25 against its formula, and the words it counts."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jointrag.bm25 import BM25, splitter

pytest.importorskip("bm25s", reason="BM25 needs bm25s and PyStemmer")

TEXTS = ["red fish", "blue fish fish swims", "red red bird", "a stone"]


def build(tmp_path: Path, texts: Sequence[str] = TEXTS, language: str = "none") -> BM25:
    return BM25.build(texts, scratch=tmp_path, language=language)


def test_what_is_saved_scores_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    built = build(tmp_path, [*TEXTS, "東京の塔", "swimming Fische"], "english")
    built.save(tmp_path / "bm25")
    loaded = BM25.load(tmp_path / "bm25")
    queries = ["red fishes swim", "東京", "nothing of it", ""]
    for before, after in zip(built.search(queries, 5), loaded.search(queries, 5), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.score("red fish", TEXTS) == built.score("red fish", TEXTS)
    assert len(loaded) == 6
    (tmp_path / "bm25" / "words.json").write_text('["red"]')
    with pytest.raises(ValueError, match="do not belong together; build the index again"):
        BM25.load(tmp_path / "bm25")


def test_scores_by_hand(tmp_path: Path) -> None:
    positions, scores = build(tmp_path).search(["red fish"], k=4)
    lengths = [2, 4, 3, 1]  # "a" is no word
    mean = sum(lengths) / 4
    weight = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))  # "red" and "fish" are in two texts each

    def part(count: int, length: int) -> float:
        return weight * count / (count + 1.5 * (1 - 0.75 + 0.75 * length / mean))

    expected = [part(1, 2) + part(1, 2), part(2, 4), part(2, 3)]
    assert positions[0].tolist() == [0, 2, 1, -1]  # the stone shares no word
    assert scores[0].tolist() == pytest.approx([expected[0], expected[2], expected[1], 0.0])


def test_a_text_outside_scores_what_it_would_inside(tmp_path: Path) -> None:
    bm25 = build(tmp_path)
    positions, scores = bm25.search(["fish bird bird"], k=3)
    inside = dict(zip(positions[0].tolist(), scores[0].tolist(), strict=True))
    assert bm25.score("fish bird bird", TEXTS) == pytest.approx([inside[0], inside[1], inside[2], 0.0])
    assert bm25.score("fish", ["fish of another corpus"])[0] > 0


def test_equal_scores_keep_the_order_of_the_corpus(tmp_path: Path) -> None:
    bm25 = build(tmp_path, ["x", "fish", "y", *["fish"] * 20, "z"])
    positions, scores = bm25.search(["fish"], k=5)
    assert positions[0].tolist() == [1, 3, 4, 5, 6] and len(set(scores[0].tolist())) == 1


def test_queries_without_known_words_find_nothing(tmp_path: Path) -> None:
    positions, _ = build(tmp_path).search(["", "unheard", "!"], k=2)
    assert (positions == -1).all()


def test_more_than_there_is(tmp_path: Path) -> None:
    positions, scores = build(tmp_path).search(["red"], k=9)
    assert positions.shape == scores.shape == (1, 9)
    assert np.count_nonzero(positions >= 0) == 2


def test_texts_without_words_are_never_found(tmp_path: Path) -> None:
    positions, _ = build(tmp_path, ["", "?!", "fish"]).search(["fish"], k=3)
    assert positions[0].tolist() == [2, -1, -1]
    with pytest.raises(ValueError, match="no words to search for"):
        build(tmp_path, ["", "?!"])


def test_words_are_stemmed_in_their_language(tmp_path: Path) -> None:
    assert build(tmp_path, ["he swims", "a stone"], "english").search(["swimming"], k=1)[0].tolist() == [[0]]
    assert build(tmp_path, ["he swims", "a stone"], "none").search(["swimming"], k=1)[0].tolist() == [[-1]]
    assert splitter("german")("die Häuser") == ["die", "haus"]
    with pytest.raises(ValueError, match=r"language='klingon' has no stemmer; choose none or one of .*german"):
        splitter("klingon")


def test_chinese_and_japanese_by_characters_and_pairs(tmp_path: Path) -> None:
    assert splitter("english")("北京 likes 東京タワー") == [
        *("北", "京", "like", "東", "京", "タ", "ワ", "ー"),
        *("北京", "東京", "京タ", "タワ", "ワー"),
    ]
    texts = ["京都在北方", "北京的大学", "上海"]  # the first has both characters, but not the word
    assert build(tmp_path, texts).search(["北京"], k=3)[0].tolist() == [[1, 0, -1]]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    build(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ValueError, match="pip install bm25s PyStemmer"):
        build(tmp_path)
    monkeypatch.setitem(sys.modules, "Stemmer", None)
    with pytest.raises(ValueError, match="pip install bm25s PyStemmer, or set language=none"):
        build(tmp_path, language="english")
