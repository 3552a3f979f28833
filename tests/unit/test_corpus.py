"""The passage store."""

from __future__ import annotations

from pathlib import Path

import pytest

from jointrag.corpus import Corpus, build
from jointrag.jsonl import write_jsonl
from jointrag.types import Passage

PASSAGES = [Passage("a", "Ärger", "erste\nZeile"), Passage("b", "", "第二"), Passage("c", "t", 'quote " here')]


def test_every_passage_comes_back(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    fingerprint = build(tmp_path / "corpus.jsonl", tmp_path / "store")
    corpus = Corpus.open(tmp_path / "store")
    assert len(corpus) == 3
    assert [corpus[i] for i in (2, 0, 1)] == [PASSAGES[2], PASSAGES[0], PASSAGES[1]]
    assert list(corpus) == PASSAGES
    assert build(tmp_path / "corpus.jsonl", tmp_path / "again") == fingerprint
    with pytest.raises(IndexError):
        corpus[3]


def test_other_corpus_has_another_fingerprint(tmp_path: Path) -> None:
    for name, passages in (("one", PASSAGES), ("two", PASSAGES[::-1])):
        write_jsonl(tmp_path / f"{name}.jsonl", passages)
    assert build(tmp_path / "one.jsonl", tmp_path / "1") != build(tmp_path / "two.jsonl", tmp_path / "2")


def test_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    line = '{"id": "%s", "title": "", "text": "x"}\n'
    path = tmp_path / "corpus.jsonl"
    path.write_text(line % "a" + "\n" + line % "b" + line % "a")
    with pytest.raises(ValueError, match=r"corpus.jsonl, line 4: passage id 'a' was used before, in line 1"):
        build(path, tmp_path / "store")


@pytest.mark.parametrize("text, message", [("", "no passages"), ("{broken\n", "line 1: not a JSON object")])
def test_broken_corpus_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "corpus.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        build(tmp_path / "corpus.jsonl", tmp_path / "store")


@pytest.mark.parametrize("name", ["passages.jsonl", "offsets.npy"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_store_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", PASSAGES)
    build(tmp_path / "corpus.jsonl", tmp_path / "store")
    path = tmp_path / "store" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"{name}.*build the index again"):
        Corpus.open(tmp_path / "store")
