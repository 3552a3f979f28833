"""Every kind of index over the same corpus: what they have in common, and what makes each exact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from jointrag.config import (
    Bm25IndexConfig,
    HybridIndexConfig,
    IndexConfig,
    IndexSection,
    TorchIndexConfig,
)
from jointrag.encoders import Encoder
from jointrag.index import SearchIndex, Shards, build, load
from jointrag.jsonl import write_jsonl
from jointrag.retrieval import InProcessRetriever
from jointrag.types import Passage

SHARD = 50  # of 128 passages
EXACT: dict[str, IndexSection] = {
    "flat": IndexConfig(shard_size=SHARD),
    "torch": TorchIndexConfig(shard_size=SHARD),
    "all clusters": IndexConfig(factory="IVF4,Flat", nprobe=4, shard_size=SHARD),
    "codes, all rescored": IndexConfig(factory="IVF4,PQ8x4", nprobe=4, rescore=128, shard_size=SHARD),
    "signs, all rescored": IndexConfig(factory="BFlat", rescore=128, shard_size=SHARD),
}
APPROXIMATE: dict[str, IndexSection] = {
    "SQ8": IndexConfig(factory="SQ8", shard_size=SHARD),
    "graph": IndexConfig(factory="HNSW8", shard_size=SHARD),
    "clusters and codes": IndexConfig(factory="PCA32,IVF4,PQ8x4", shard_size=SHARD),
    "signs": IndexConfig(factory="BFlat", rescore=0, shard_size=SHARD),
    "signs in clusters": IndexConfig(factory="BIVF4", shard_size=SHARD),
    "signs in a graph": IndexConfig(factory="BHNSW8", shard_size=SHARD),
    "cut vectors": IndexConfig(truncate_dim=16, shard_size=SHARD),
}
WITH_WORDS: dict[str, IndexSection] = {
    "bm25": Bm25IndexConfig(),
    "hybrid": HybridIndexConfig(dense=IndexConfig(shard_size=SHARD)),
    "hybrid with torch": HybridIndexConfig(dense=TorchIndexConfig(shard_size=SHARD), num_fetched=5),
}
KINDS = EXACT | APPROXIMATE | WITH_WORDS
QUERIES = ["Where does Cora Dorn live?", "born in New Pell", "Hugo Haas"]
ODD = ["", " \n", "東京タワーはどこ？", "👩‍👩‍👧 \u0000 e\u0301", "Ada " * 500]

Opened = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(world: Path, retriever_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """An index of each kind, built when it is first asked for; do not change it."""
    built: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in built:
            out = tmp_path_factory.mktemp("kinds") / "index"
            retriever = None if kind == "bm25" else retriever_dir
            build(KINDS[kind], prepared=world, retriever=retriever, out=out, device="cpu")
            built[kind] = out
        return built[kind]

    return folder


def vectors_of(index: SearchIndex, queries: list[str]) -> NDArray[np.float32] | None:
    return Encoder.load(index.encoder_path, "cpu").encode(queries, kind="query") if index.encoder_path else None


@pytest.mark.parametrize("kind", KINDS)
def test_hits_are_distinct_and_in_order(folder_of: Opened, kind: str) -> None:
    retriever = InProcessRetriever.open(folder_of(kind), "cpu")
    assert retriever.index.info.type == KINDS[kind].type
    for hits in retriever.search(QUERIES, 7):
        assert len({hit.passage.id for hit in hits}) == len(hits) == 7
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
    if KINDS[kind].type in ("bm25", "hybrid"):  # words in common count even with an untrained encoder
        assert "Hugo Haas" in {hit.passage.title for hit in retriever.search(QUERIES, 3)[2]}


@pytest.mark.parametrize("kind", EXACT)
def test_exact_kinds_find_what_is_nearest(folder_of: Opened, kind: str) -> None:
    index = load(folder_of(kind), "cpu")
    queries = vectors_of(index, QUERIES)
    assert queries is not None
    everything = Shards.open(folder_of(kind) / "vectors").vectors()[np.arange(128)]
    expected = queries @ everything.T
    positions, scores = index.nearest(queries, 10)
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :10], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, positions, axis=1), scores, atol=1e-5)
    assert index.info.recall_at_10 == 1


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_the_corpus_is_the_corpus_or_what_was_found(folder_of: Opened, kind: str) -> None:
    index = load(folder_of(kind), "cpu")
    found = index.search(vectors_of(index, QUERIES), 1_000, QUERIES)
    for hits in found:
        assert len({hit.passage.id for hit in hits}) == len(hits) <= 128
    if kind in EXACT or kind in ("SQ8", "signs", "cut vectors", "hybrid"):
        assert {len(hits) for hits in found} == {128}


@pytest.mark.parametrize("kind", KINDS)
def test_no_query_and_odd_queries(folder_of: Opened, kind: str) -> None:
    retriever = InProcessRetriever.open(folder_of(kind), "cpu")
    assert retriever.search([], 3) == []
    found = retriever.search(ODD, 3)
    assert len(found) == len(ODD)
    if kind != "bm25":
        assert {len(hits) for hits in found} == {3}
    else:
        assert [len(hits) for hits in found] == [0, 0, 0, 0, 3]
    with pytest.raises(ValueError, match="k=0"):
        retriever.search(QUERIES, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_has_the_same_answer_alone_and_among_others_here_and_elsewhere(
    folder_of: Opened, kind: str, world: Path, retriever_dir: Path, tmp_path: Path
) -> None:
    index = load(folder_of(kind), "cpu")
    vectors = vectors_of(index, QUERIES)
    positions, scores = index.nearest(vectors, 10, QUERIES)
    shutil.copytree(folder_of(kind), tmp_path / "copy")
    again = load(tmp_path / "copy", "cpu")
    np.testing.assert_array_equal(again.nearest(vectors, 10, QUERIES)[0], positions)
    for i in range(len(QUERIES)):
        part = None if vectors is None else vectors[i : i + 1]
        np.testing.assert_allclose(again.nearest(part, 10, QUERIES[i : i + 1])[1][0], scores[i], atol=1e-5)
    build(KINDS[kind], prepared=world, retriever=retriever_dir, out=tmp_path / "again", device="cpu")
    np.testing.assert_allclose(load(tmp_path / "again", "cpu").nearest(vectors, 10, QUERIES)[1], scores, atol=1e-6)


@pytest.mark.parametrize("kind", ["flat", "torch", "signs in a graph", "bm25", "hybrid"])
def test_every_file_counts(folder_of: Opened, kind: str, tmp_path: Path) -> None:
    names = [path.relative_to(folder_of(kind)) for path in folder_of(kind).rglob("*") if path.is_file()]
    assert len(names) >= {"torch": 7, "flat": 8, "signs in a graph": 8, "bm25": 8, "hybrid": 13}[kind]
    for name in names:
        copy = Path(shutil.copytree(folder_of(kind), tmp_path / "copy"))
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="build the index again"):
            load(copy, "cpu")
        (copy / name).unlink()
        with pytest.raises(ValueError, match=r"build (the index again|it first)"):
            load(copy, "cpu")
        middle = len(whole) // 2
        (copy / name).write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        if name.name != "index.json":
            with pytest.raises(ValueError, match="build the index again"):
                load(copy, "cpu")
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", ["flat", "torch", "bm25", "hybrid"])
@pytest.mark.parametrize("part", ["corpus", "vectors", "index.faiss", "bm25"])
def test_parts_of_another_index_of_the_same_size_are_refused(
    folder_of: Opened, kind: str, part: str, retriever_dir: Path, tmp_path: Path
) -> None:
    if not (folder_of(kind) / part).exists():
        pytest.skip(f"{kind} has no {part}")
    copy = Path(shutil.copytree(folder_of(kind), tmp_path / "copy"))
    passages = list(load(copy, "cpu").corpus)
    write_jsonl(tmp_path / "other" / "corpus.jsonl", [Passage(p.id, p.title[::-1], p.text) for p in passages])
    other = tmp_path / "index"
    build(KINDS[kind], prepared=tmp_path / "other", retriever=retriever_dir, out=other, device="cpu")
    target = copy / part
    if target.is_dir():
        shutil.rmtree(target)
        shutil.copytree(other / part, target)
    else:
        shutil.copyfile(other / part, target)
    with pytest.raises(ValueError, match="build the index again"):
        load(copy, "cpu")


def test_what_a_kind_needs_is_said(folder_of: Opened, world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="type bm25 needs the queries' texts"):
        load(folder_of("bm25")).search(None, 3)
    with pytest.raises(ValueError, match="type torch needs the queries' vectors"):
        load(folder_of("torch"), "cpu").search(None, 3, QUERIES)
    with pytest.raises(ValueError, match="vectors of 3 dimensions; the encoder's have 64"):
        load(folder_of("flat")).search(np.zeros((1, 3), np.float32), 3)
    with pytest.raises(ValueError, match="type torch needs an encoder"):
        build(TorchIndexConfig(), prepared=world, out=tmp_path)


def test_rescored_signs_have_the_scores_of_their_vectors(folder_of: Opened) -> None:
    index = load(folder_of("signs in clusters"), "cpu")
    queries = vectors_of(index, QUERIES)
    assert queries is not None
    everything = Shards.open(folder_of("flat") / "vectors").vectors()[np.arange(128)]
    positions, scores = index.nearest(queries, 5)
    np.testing.assert_allclose(np.take_along_axis(queries @ everything.T, positions, axis=1), scores, atol=1e-5)
    plain = load(folder_of("signs"), "cpu").nearest(queries, 128)
    correlation = np.corrcoef(np.take_along_axis(queries @ everything.T, plain[0], axis=1).ravel(), plain[1].ravel())
    assert correlation[0, 1] > 0.8  # the angle is estimated well


def test_cut_vectors_are_compared_by_their_first_dimensions(folder_of: Opened) -> None:
    index = load(folder_of("cut vectors"), "cpu")
    queries = vectors_of(index, QUERIES)
    assert queries is not None and queries.shape[1] == 64 and index.info.dim == 16
    whole = Shards.open(folder_of("flat") / "vectors").vectors()[np.arange(128)]
    first, cut = queries[:, :16], whole[:, :16]
    expected = (first / np.linalg.norm(first, axis=1, keepdims=True)) @ (
        cut / np.linalg.norm(cut, axis=1, keepdims=True)
    ).T
    np.testing.assert_allclose(index.nearest(queries, 128)[1], -np.sort(-expected, axis=1), atol=1e-3)
