"""Texts with a teacher's vectors: shapes, bare memory maps, vectors that would make training NaN."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.retrieval.batches import BatchesByLength
from trainers.retrieval.teacher import TeacherTexts, open_teacher

VECTORS = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
SPOILT = np.array([[1], [1], [np.inf], [1]], np.float32)
MISSING = np.array([[1], [0], [1], [1]], np.float32)


def texts(folder: Path, *rows: Any) -> Path:
    rows = rows or ({"text": "a"}, {"query": "b", "prompt": "Q: "}, {"text": "c"}, {"text": "d" * 50})
    path = folder / "texts.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def opened(folder: Path, vectors: Any = VECTORS, *rows: Any, **options: Any) -> TeacherTexts:
    np.save(folder / "vectors.npy", vectors)
    return open_teacher(texts(folder, *rows), folder / "vectors.npy", cache=folder / "cache", **options)


def bare(folder: Path, vectors: Any, **options: Any) -> TeacherTexts:
    vectors.tofile(folder / "vectors.mmap")
    return open_teacher(texts(folder), folder / "vectors.mmap", cache=folder / "cache", **options)


def check(teacher: TeacherTexts, vectors: np.ndarray) -> None:
    assert (len(teacher), teacher.num_dims) == vectors.shape
    assert [teacher[0, i].text for i in range(4)] == ["a", "Q: b", "c", "d" * 50]
    for i in range(4):
        assert teacher[5, i].vector.dtype == np.float32
        np.testing.assert_array_equal(teacher[5, i].vector, vectors[i].astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_both_kinds_of_files(tmp_path: Path, dtype: Any) -> None:
    vectors = VECTORS.astype(dtype)
    check(opened(tmp_path, vectors), vectors)
    teacher = bare(tmp_path, vectors, num_dims=6, dtype=dtype)
    check(teacher, vectors)
    content = pickle.dumps(teacher)
    assert len(content) < 2_000
    check(pickle.loads(content), vectors)


def test_empty_texts_take_their_rows_along(tmp_path: Path) -> None:
    rows = {"text": "a"}, {"text": " "}, {"text": "c"}, {"text": "c"}
    vectors = VECTORS.copy()
    vectors[1] = np.nan  # nobody looks at it
    teacher = opened(tmp_path, vectors, *rows)
    assert [teacher[0, i].text for i in range(len(teacher))] == ["a", "c", "c"]
    np.testing.assert_array_equal(teacher[0, 1].vector, VECTORS[2])
    report = teacher.store.report
    assert (report.format, report.lines, report.empty_texts, report.duplicates) == ("teacher", 4, 1, 1)
    assert str(report).startswith("3 texts of a teacher")


def test_in_batches(tmp_path: Path) -> None:
    teacher = opened(tmp_path)
    assert teacher.length((0, 3)) == 50
    assert sorted(key for batch in BatchesByLength(teacher, batch_size=2, seed=0) for key in batch) == [
        (0, i) for i in range(4)
    ]


@pytest.mark.parametrize(
    "vectors, message",
    [
        (VECTORS[:3], r"vectors.npy has the shape \(3, 6\), and \S+texts.jsonl 4 lines; there has to be one row"),
        (VECTORS.ravel(), r"has the shape \(24,\)"),
        (VECTORS.astype(np.float64), "holds float64; write it as float32 or float16"),
        (VECTORS * [[1], [1], [np.nan], [1]], "holds float64"),
        (VECTORS * SPOILT, "row 2: the vector of .*texts.jsonl, line 5 is not finite"),
        (VECTORS * MISSING, "row 1: the vector of .*texts.jsonl, line 3 is zero"),
        (np.full((4, 6), np.inf, np.float16), "row 0: the vector of .*line 1 is not finite; .*65,504"),
    ],
)
def test_vectors_that_do_not_fit(tmp_path: Path, vectors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, vectors)


def test_large_float16_vectors_are_finite(tmp_path: Path) -> None:
    assert len(opened(tmp_path, np.full((4, 6), 60_000, np.float16))) == 4  # their squares are not


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "is a bare np.memmap, .*give num_dims .with 4 lines of float32 it would be 6"),
        ({"num_dims": 5}, r"has 4.8 rows of 5 float32 \(96 B\), and \S+texts.jsonl 4 lines"),
        (
            {"num_dims": 12},
            r"has 2 rows of 12 float32 .*one row per line$|has 2 rows of 12 .*with dtype=.float16. it fits",
        ),
        ({"num_dims": 6, "dtype": "float16"}, "has 8 rows of 6 float16 .*with dtype=.float32. it fits"),
    ],
)
def test_bare_files_that_do_not_fit(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bare(tmp_path, VECTORS, **options)


def test_other_complaints(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 6 dimensions, and num_dims=7"):
        opened(tmp_path, num_dims=7)
    for row, message in (
        ({"pos": ["p"]}, 'expected one of "text" and "query", found the fields "pos"'),
        ({"text": "a", "query": "b"}, 'expected one of "text" and "query"'),
        ({"text": 5}, '"text" is the number 5'),
    ):
        with pytest.raises(ValueError, match=rf"texts.jsonl, line 3: {message}"):
            opened(tmp_path, VECTORS, {"text": "a"}, row)
    with pytest.raises(ValueError, match=r"nowhere\.npy: no such file of vectors"):
        open_teacher(texts(tmp_path), tmp_path / "nowhere.npy", cache=tmp_path / "cache")
    (tmp_path / "broken.npy").write_bytes((tmp_path / "vectors.npy").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"broken.npy is no .npy file of numbers"):
        open_teacher(texts(tmp_path), tmp_path / "broken.npy", cache=tmp_path / "cache")
    np.save(tmp_path / "objects.npy", np.array(["a", None], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects.npy is no .npy file of numbers"):
        open_teacher(texts(tmp_path), tmp_path / "objects.npy", cache=tmp_path / "cache")
