"""Searching a whole corpus by a real encoder and by a real index: what is found, and what is not done twice."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jointrag.config import NegativesConfig
from jointrag.encoders import Encoder
from jointrag.index import exact
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.types import Passage, Question
from trainers.negatives import mine
from trainers.retrieval import corpus_search
from trainers.retrieval.corpus_search import EncoderSearch, open_search, weights_fingerprint

QUERIES = ["Where does Ada Brand live?", "In which city was Hugo Haas born?", "Gina"]
OWN = [["Ada Brand lives in Oslo.", "nothing"], [], ["Gina Falk"]]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of everything, although the corpus has 128 passages."""
    monkeypatch.setattr(corpus_search, "_BLOCK", 48)
    monkeypatch.setattr(corpus_search, "_PASSAGES_AT_ONCE", 20)
    monkeypatch.setattr(exact, "_QUERIES_AT_ONCE", 2)


@pytest.fixture
def model(retriever_dir: Path) -> Path:
    return retriever_dir / "model"


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every passage text that is embedded, as it is."""
    seen: list[str] = []
    encode = Encoder.encode

    def counting(self: Encoder, texts: Sequence[str], kind: Any, batch_size: int = 256) -> Any:
        if kind == "passage":
            seen.extend(texts)
        return encode(self, texts, kind, batch_size)

    monkeypatch.setattr(Encoder, "encode", counting)
    return seen


def test_an_encoders_search_is_exact(world: Path, model: Path, tmp_path: Path) -> None:
    search = open_search(model, world / "corpus.jsonl", work=tmp_path, device="cpu")
    found = search.search(QUERIES, k=30, own=OWN)
    encoder = Encoder.load(model, "cpu")
    passages = [passage.contents for passage in read_jsonl(world / "corpus.jsonl", Passage)]
    scores = encoder.encode(QUERIES, kind="query") @ encoder.encode(passages, kind="passage").T
    best = np.sort(scores, axis=1)[:, ::-1][:, :30]
    np.testing.assert_allclose(found.scores, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, found.positions, axis=1), best, atol=1e-5)
    assert all(len(set(row)) == 30 for row in found.positions.tolist())
    for query, own, found_own in zip(QUERIES, OWN, found.own, strict=True):
        expected = encoder.encode([query], "query")[0] @ encoder.encode(own, "passage").T
        assert found_own == pytest.approx(expected.tolist(), abs=1e-5)
    assert open_search(model, world / "corpus.jsonl", work=tmp_path).search(["x"], k=500).positions.shape == (1, 128)


def test_an_interrupted_embedding_goes_on(
    world: Path, model: Path, tmp_path: Path, embedded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = world / "corpus.jsonl"
    whole = open_search(model, corpus, work=tmp_path / "whole").search(QUERIES, k=9)
    (file,) = (tmp_path / "whole").glob("vectors-*.f32")
    cut = tmp_path / "cut" / file.name
    cut.parent.mkdir()
    row_bytes = file.stat().st_size // 128
    cut.write_bytes(file.read_bytes()[: 70 * row_bytes + 11])  # one block of 48, a part of the next, a part of a row
    embedded.clear()
    again = open_search(model, corpus, work=tmp_path / "cut").search(QUERIES, k=9)
    assert len(embedded) == 128 - 48
    assert cut.read_bytes() == file.read_bytes()
    assert np.array_equal(again.positions, whole.positions) and np.array_equal(again.scores, whole.scores)
    embedded.clear()
    open_search(model, corpus, work=tmp_path / "cut").search(QUERIES, k=9)
    assert embedded == []


def test_another_model_or_corpus_is_embedded_anew(
    world: Path, model: Path, tmp_path: Path, embedded: list[str]
) -> None:
    import torch

    corpus = world / "corpus.jsonl"
    open_search(model, corpus, work=tmp_path / "w").search(QUERIES, k=2)
    other = Encoder.load(model, "cpu")
    assert weights_fingerprint(other) == weights_fingerprint(Encoder.load(model, "cpu"))
    with torch.no_grad():
        next(other.model.parameters())[5, 0] += 0.01
    assert weights_fingerprint(other) != weights_fingerprint(Encoder.load(model, "cpu"))
    other.model.save(str(tmp_path / "other"), create_model_card=False)
    embedded.clear()
    open_search(tmp_path / "other", corpus, work=tmp_path / "w").search(QUERIES, k=2)
    assert len(embedded) == 128
    smaller = tmp_path / "corpus.jsonl"
    write_jsonl(smaller, list(read_jsonl(corpus, Passage))[:50])
    embedded.clear()
    found = open_search(model, smaller, work=tmp_path / "w").search(QUERIES, k=60)
    assert len(embedded) == 50 and found.positions.max() < 50


def test_an_index_that_is_built_already(world: Path, model: Path, index_dir: Path, tmp_path: Path) -> None:
    corpus = world / "corpus.jsonl"
    by_index = open_search(index_dir, corpus, work=tmp_path, device="cpu")
    by_encoder = open_search(model, corpus, work=tmp_path, device="cpu")
    one, other = by_index.search(QUERIES, 5, OWN), by_encoder.search(QUERIES, 5, OWN)
    assert isinstance(by_encoder, EncoderSearch) and not isinstance(by_index, EncoderSearch)
    np.testing.assert_allclose(one.scores, other.scores, atol=2e-4)  # an index keeps fp16
    assert [pytest.approx(row, abs=1e-5) for row in one.own] == other.own
    assert len({by_index.fingerprint, by_encoder.fingerprint}) == 2
    write_jsonl(tmp_path / "other.jsonl", [Passage("1", "", "another one")])
    with pytest.raises(ValueError, match=r"index over another corpus than .*other\.jsonl; build it again"):
        open_search(index_dir, tmp_path / "other.jsonl", work=tmp_path)


def test_what_is_no_retriever(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: not a sentence-transformers model folder"):
        open_search(tmp_path / "empty", world / "corpus.jsonl", work=tmp_path)
    with pytest.raises(ValueError, match=r"(?s)'bm52' cannot be loaded .*give bm25, an index folder, or"):
        open_search("bm52", world / "corpus.jsonl", work=tmp_path)


def test_negatives_of_a_model(world: Path, model: Path, tmp_path: Path, embedded: list[str]) -> None:
    """From prepared questions; a second run with other settings embeds no passage of the corpus again."""

    def mined(name: str, **settings: Any) -> list[dict[str, Any]]:
        import json

        mine(
            NegativesConfig(num_negatives=3, **settings),
            data=world / "questions" / "source.jsonl",
            corpus=world / "corpus.jsonl",
            retriever=str(model),
            out=tmp_path / name,
            work=tmp_path / "work",
            device="cpu",
        )
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    rows = mined("loose.jsonl", max_share=None, leave_out_answers=False)
    questions = {q.text: q for q in read_jsonl(world / "questions" / "source.jsonl", Question)}
    assert len(rows) == len(questions) and all(len(row["neg"]) == 3 for row in rows)
    assert not any(set(row["pos"]) & set(row["neg"]) for row in rows)
    assert any(questions[row["query"]].answers[0] in text for row in rows for text in row["neg"])
    embedded.clear()
    strict = mined("strict.jsonl", choose="sample", last_rank=40, too_few="drop", scores=True)
    assert len(embedded) == sum(len(q.gold_passages) for q in questions.values())  # the positives, to score them
    assert not any(questions[row["query"]].answers[0] in text for row in strict for text in row["neg"])
    assert all(max(row["neg_scores"]) <= 0.95 * min(row["pos_scores"]) for row in strict)
    first = (tmp_path / "strict.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "work")
    mined("strict.jsonl", choose="sample", last_rank=40, too_few="drop", scores=True)
    assert (tmp_path / "strict.jsonl").read_bytes() == first
