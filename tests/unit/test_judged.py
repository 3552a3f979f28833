"""Queries with judged texts, from records and from training files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evaluation.judged import Judged


@dataclass(frozen=True)
class Row:
    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()


def gains(judged: Judged) -> dict[str, dict[str, float]]:
    return {
        query: {judged.corpus[i]: gain for i, gain in row.items()}
        for query, row in zip(judged.queries, judged.gold, strict=True)
    }


def write(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_texts_are_one_document_and_queries_one_query() -> None:
    judged = Judged.of(
        [Row("q", ("a", "b"), ("c", "d")), Row("r", ("c",), ("a",)), Row("q", ("d",), ("e", "a")), Row("s", ("a",))]
    )
    assert gains(judged) == {
        "q": {"a": 1, "b": 1, "c": 0, "d": 1, "e": 0},  # a positive anywhere is no negative elsewhere
        "r": {"c": 1, "a": 0},
        "s": {"a": 1},
    }
    assert sorted(judged.corpus) == ["a", "b", "c", "d", "e"]
    assert [sorted(row) for row in judged.candidates] == [sorted(row) for row in judged.gold]


def test_the_order_does_not_give_the_positives_away() -> None:
    rows = [Row(f"q{i}", (f"p{i}",), tuple(f"n{i}-{j}" for j in range(9))) for i in range(200)]
    judged = Judged.of(rows)
    first = sum(judged.gold[i][row[0]] for i, row in enumerate(judged.candidates))
    assert 5 < first < 45, "a model that knows nothing finds the positive first once in ten times"
    early = sum(text.startswith("p") for text in judged.corpus[:500])
    assert 25 < early < 75
    assert Judged.of(rows) == judged
    assert Judged.of(rows, seed=1) != judged


def test_scores_are_grades_where_they_tell_the_texts_apart() -> None:
    graded = Judged.of([Row("q", ("a", "b", "c"), (), (3, 0, 1)), Row("r", ("a", "d"), (), (0, 0))])
    assert gains(graded) == {"q": {"a": 3, "b": 0, "c": 1}}, "nothing answers r"
    assert "d" in graded.corpus
    teacher = Judged.of([Row("q", ("a",), ("b",), (0.7,), (0.9,))])
    assert gains(teacher) == {"q": {"a": 1, "b": 0}}, "a teacher's scores beside positives and negatives are no labels"
    chosen = Judged.of([Row("q", ("a", "b"), ("c",), (0.7, 0.2))], relevant_from=0.5)
    assert gains(chosen) == {"q": {"a": 1, "b": 0, "c": 0}}
    with pytest.raises(ValueError, match=r"score 0\.7, which is no grade .*--relevant-from"):
        Judged.of([Row("q", ("a", "b"), (), (0.7, 1))])
    with pytest.raises(ValueError, match="no query has a relevant text"):
        Judged.of([Row("q", ("a",), (), (0.2,))], relevant_from=0.5)


def test_files_in_the_training_format(tmp_path: Path) -> None:
    path = write(
        tmp_path / "dev.jsonl",
        {"query": "one", "pos": "a", "neg": ["b"], "prompt": "find: "},
        {"query": "two", "pos": ["b", "c"], "prompt_for_query": "ask: "},
        {"query": "three", "pos": ["a"], "neg": ["c"], "pos_scores": [1.5], "neg_scores": [0.5], "type": "normal"},
    )
    assert gains(Judged.read(path)) == {
        "find: one": {"a": 1, "b": 0},
        "ask: two": {"b": 1, "c": 1},
        "three": {"a": 1, "c": 0},
    }
    path = write(tmp_path / "scored.jsonl", {"query": "one", "pos": ["a", "b"], "scores": [0.8, 0.2]})
    assert gains(Judged.read(path, relevant_from=0.5)) == {"one": {"a": 1, "b": 0}}
    with pytest.raises(ValueError, match=r"scored\.jsonl: query 'one'"):
        Judged.read(path)
    path = write(tmp_path / "short.jsonl", {"query": "q", "pos": "a"}, {"query": "q", "pos": ["a", "b"], "scores": [1]})
    with pytest.raises(ValueError, match=r"short\.jsonl, line 2: 2 texts with 1 scores"):
        Judged.read(path)
    path = write(tmp_path / "broken.jsonl", {"query": "q", "positives": ["a"]})
    with pytest.raises(ValueError, match=r"broken\.jsonl, line 1: unknown field 'positives'"):
        Judged.read(path)


def test_real_files() -> None:
    samples = Path(os.environ.get("JOINTRAG_SAMPLES") or Path(__file__).parents[2] / "../shared/data")
    if not samples.is_dir():
        pytest.skip("the real samples are not here")
    small = Judged.read(samples / "t2ranking" / "t2rank_100.small.jsonl")
    assert len(small.queries) == 11
    assert all(sum(gain == 0 for gain in row.values()) == 15 for row in small.gold)
    scored = Judged.read(samples / "t2ranking" / "t2rank_100.distill.standard.jsonl", relevant_from=0.5)
    assert 90 < len(scored.queries) <= 100
    for name in ("msmarco", "nq", "reranker"):
        teacher = Judged.read(samples / "flagembedding" / f"{name}.jsonl")
        assert [sum(row.values()) for row in teacher.gold] == [1] * 10
