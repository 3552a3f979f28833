"""Passages by their ids, straight from the corpus file."""

from pathlib import Path

import pytest

from jointrag import passages_by_id
from jointrag.jsonl import write_jsonl
from jointrag.passages_by_id import PassagesById
from jointrag.types import Passage

PASSAGES = [Passage(f"页 {i}", f"T{i}", f"text {i} ü") for i in range(300)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    return tmp_path / "corpus.jsonl"


def test_every_passage_is_found(path: Path) -> None:
    corpus = PassagesById(path)
    assert [corpus[p.id] for p in reversed(PASSAGES)] == PASSAGES[::-1]
    with pytest.raises(KeyError, match="nobody"):
        corpus["nobody"]


def test_ids_of_one_hash_are_told_apart(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages_by_id, "_hash", lambda id: len(id))
    corpus = PassagesById(path)
    assert [corpus[p.id] for p in PASSAGES] == PASSAGES
    with pytest.raises(KeyError):
        corpus["页 x"]
