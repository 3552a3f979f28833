"""Encoder, corpus and Faiss together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jointrag.config import IndexConfig
from jointrag.encoders import Encoder, fingerprint
from jointrag.index import build, load
from jointrag.jsonl import write_jsonl
from jointrag.retrieval import InProcessRetriever
from jointrag.types import Passage


@pytest.fixture
def copied(index_dir: Path, tmp_path: Path) -> Path:
    """An index to damage."""
    return Path(shutil.copytree(index_dir, tmp_path / "index"))


def test_vectors_are_unit_length_and_in_order(retriever_dir: Path) -> None:
    encoder = Encoder.load(retriever_dir / "model", "cpu")
    texts = ["Ada Adler", "Where does Hugo Haas live, and in which city was Ada Brand born?", "", "Port Nevin"]
    together = encoder.encode(texts, kind="query", batch_size=2)
    assert together.dtype == np.float32
    assert together.shape == (4, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text], kind="query") for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert encoder.encode([], kind="query").shape == (0, encoder.dim)


def test_prompts_of_the_model_are_applied(retriever_dir: Path) -> None:
    encoder = Encoder.load(retriever_dir / "model", "cpu")
    plain = encoder.encode(["who lives in Port Nevin"], kind="query")
    encoder.model.prompts.update(query="who ", document="")
    np.testing.assert_allclose(encoder.encode(["lives in Port Nevin"], kind="query"), plain, atol=1e-5)
    assert encoder.prompt("query") == "who "
    assert encoder.prompt("passage") == ""


def test_search_is_the_exact_nearest_neighbour_search(index_dir: Path) -> None:
    index = load(index_dir)
    encoder = Encoder.load(index.encoder_path or "", "cpu")
    passages = list(index.corpus)
    scores = (
        encoder.encode(["Where does Cora Dorn live?", "born in New Pell"], kind="query")
        @ encoder.encode([passage.contents for passage in passages], kind="passage").T
    )
    found = InProcessRetriever(index, encoder).search(["Where does Cora Dorn live?", "born in New Pell"], 10)
    for row, hits in zip(scores, found, strict=True):
        # vectors are kept as fp16
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(row)[::-1][:10], atol=2e-4)
        positions = {passage.id: i for i, passage in enumerate(passages)}
        np.testing.assert_allclose([row[positions[hit.passage.id]] for hit in hits], [h.score for h in hits], atol=2e-4)
        assert all(hit.passage == passages[positions[hit.passage.id]] for hit in hits)


def test_more_than_the_corpus_gives_the_whole_corpus(index_dir: Path) -> None:
    (hits,) = InProcessRetriever.open(index_dir, "cpu").search(["anything"], 10_000)
    assert len({hit.passage.id for hit in hits}) == 128


def test_build_reports_and_leaves_nothing_aside(world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    metrics = build(IndexConfig(factory="SQ8", batch_size=50), prepared=world, retriever=retriever_dir, out=tmp_path)
    assert metrics["index/passages"] == 128
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "index.faiss", "index.json", "vectors"]
    assert all(isinstance(value, float) for value in metrics.values())
    assert load(tmp_path).info.factory == "SQ8"


@pytest.mark.parametrize("factory, message", [("Flt", "does not build"), ("IVF1000,Flat", "cannot be trained on 128")])
def test_impossible_factory_is_named(
    world: Path, retriever_dir: Path, tmp_path: Path, factory: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"index.factory='{factory}'.*{message}"):
        build(IndexConfig(factory=factory), prepared=world, retriever=retriever_dir, out=tmp_path)
    with pytest.raises(ValueError, match="not a finished index"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["index.faiss", "index.json", "corpus/passages.jsonl", "corpus/offsets.npy"])
def test_truncated_file_is_refused(copied: Path, name: str) -> None:
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=rf"{name}.*build the index again"):
        load(copied)


def test_overwritten_index_is_refused(copied: Path) -> None:
    size = (copied / "index.faiss").stat().st_size
    (copied / "index.faiss").write_bytes(b"\0" * size)
    with pytest.raises(ValueError, match="damaged"):
        load(copied)


def test_corpus_of_another_index_is_refused(copied: Path, retriever_dir: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "other" / "corpus.jsonl", [Passage(str(i), "", f"text {i}") for i in range(7)])
    build(IndexConfig(), prepared=tmp_path / "other", retriever=retriever_dir, out=tmp_path / "small")
    shutil.rmtree(copied / "corpus")
    shutil.copytree(tmp_path / "small" / "corpus", copied / "corpus")
    with pytest.raises(ValueError, match=r"7 passages in the corpus where index\.json says 128"):
        load(copied)


def test_changed_or_missing_encoder_is_refused(world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    retriever = Path(shutil.copytree(retriever_dir, tmp_path / "retriever"))
    build(IndexConfig(), prepared=world, retriever=retriever, out=tmp_path / "index")
    config = retriever / "model" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_act": "relu"}))
    with pytest.raises(ValueError, match=r"not the encoder that .* was built with"):
        load(tmp_path / "index")
    shutil.rmtree(retriever)
    with pytest.raises(ValueError, match=r"its encoder is not at .*retriever/model"):
        load(tmp_path / "index")


def test_index_and_encoder_may_move_together(world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    retriever = Path(shutil.copytree(retriever_dir, tmp_path / "here" / "retriever"))
    build(IndexConfig(), prepared=world, retriever=retriever, out=tmp_path / "here" / "index")
    (tmp_path / "here").rename(tmp_path / "there")
    assert load(tmp_path / "there" / "index").encoder_path == tmp_path / "there" / "retriever" / "model"


def test_fingerprint_knows_names_and_contents(retriever_dir: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(retriever_dir / "model", tmp_path / "model"))
    assert fingerprint(model) == fingerprint(retriever_dir / "model")
    (model / "tokenizer.json").rename(model / "tokeniser.json")
    assert fingerprint(model) != fingerprint(retriever_dir / "model")


def test_missing_model_and_duplicate_passage_are_named(world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    prepared = Path(shutil.copytree(world, tmp_path / "world"))
    with pytest.raises(ValueError, match="not a sentence-transformers model folder"):
        build(IndexConfig(), prepared=prepared, retriever=tmp_path, out=tmp_path / "index")
    corpus = prepared / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + corpus.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="line 129: passage id 'home-0' was used before, in line 1"):
        build(IndexConfig(), prepared=prepared, retriever=retriever_dir, out=tmp_path / "index")
