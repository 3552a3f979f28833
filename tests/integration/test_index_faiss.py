"""Faiss as an index is built with it: what its factories take, how thoroughly they are searched, GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from jointrag.config import IndexConfig
from jointrag.index import Vectors, build, faiss_search, load
from jointrag.index.faiss_parts import Parts


@pytest.mark.parametrize(
    "config, message",
    [
        (IndexConfig(nprobe=3), "index.nprobe=3: index.factory='Flat' has no clusters"),
        (IndexConfig(factory="IVF4,Flat", ef_search=3), "index.ef_search=3: .* has no graph"),
        (IndexConfig(factory="BFlt"), "index.factory='BFlt': Faiss does not build this for 64 dimensions"),
        (IndexConfig(factory="BFlat", truncate_dim=12), "Faiss does not build this for 12 dimensions"),
        (IndexConfig(factory="IVF129,Flat"), "cannot be trained on 128 passages: it has 129 clusters"),
        (IndexConfig(factory="PCA32,IVF2,PQ8"), "cannot be trained on 128 passages: it has 256 clusters"),
        (IndexConfig(factory="IVF0,Flat"), "index.factory='IVF0,Flat': give at least IVF1"),
        (IndexConfig(factory="HNSW1"), "index.factory='HNSW1': Faiss does not build this"),
        (IndexConfig(factory="BHNSW0"), "index.factory='BHNSW0': give at least IVF1, or HNSW2"),
        (IndexConfig(truncate_dim=65), "index.truncate_dim=65: the encoder's vectors have 64 dimensions"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_embedded(
    config: IndexConfig, message: str, world: Path, retriever_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build(config, prepared=world, retriever=retriever_dir, out=tmp_path, device="cpu")
    assert not (tmp_path / "vectors").exists()


def test_searches_are_as_thorough_as_set_and_by_default_as_the_root_of_the_clusters() -> None:
    for factory in ("IVF100,Flat", "PCA32,IVF100,PQ8x4,RFlat", "BIVF100"):
        assert Parts.of(faiss_search.make(IndexConfig(factory=factory), 64)).ivf.nprobe == 10
        assert Parts.of(faiss_search.make(IndexConfig(factory=factory, nprobe=3), 64)).ivf.nprobe == 3
    for factory in ("HNSW8", "PCA32,HNSW8_SQ8", "BHNSW8"):
        assert Parts.of(faiss_search.make(IndexConfig(factory=factory), 64)).graph.efSearch == 128
        assert Parts.of(faiss_search.make(IndexConfig(factory=factory, ef_search=9), 64)).graph.efSearch == 9


FACTORIES = ("Flat", "SQ8", "PQ8x4", "PQ8x4fs", "HNSW16", "HNSW16_SQ8", "IVF8,Flat", "PCA32,IVF8,SQ8", "IVF8,PQ8x4fs",
             "IVF8,PQ8x4,RFlat", "BFlat", "BIVF8", "BHNSW16")  # fmt: skip


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_memory_said_beforehand_is_what_the_index_takes(factory: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(4_000, 64)).astype(np.float16)
    config = IndexConfig(factory=factory, num_training_passages=1_000)
    sizes, index = [], None
    for vectors in (Vectors([rows]), Vectors([rows, rows])):  # their difference: without centroids and the like
        index = faiss_search.make(config, 64)
        faiss_search.fill(index, vectors, config)
        faiss_search.write(index, tmp_path / "index")
        sizes.append((tmp_path / "index").stat().st_size)
    assert 4_000 * Parts.of(index).bytes_per_vector == pytest.approx(sizes[1] - sizes[0], rel=0.06)
    said = faiss_search.describe(faiss_search.make(config, 64), config, 4_000)
    assert said.startswith(f"{factory}: 4,000 vectors")
    assert ("trained on 1,000 of them" in said) == (factory not in ("Flat", "HNSW16", "BFlat", "BHNSW16"))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Two GPUs, as far as Faiss's Python code says; what is asked of them."""
    asked: list[tuple[Any, ...]] = []

    class Options:
        shard = None

    def to_all(index: Any, co: Any = None, ngpu: int = -1) -> Any:
        asked.append((type(index).__name__, co and co.shard, ngpu))
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", Options, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_all)
    return asked


def test_what_is_asked_of_gpus(world: Path, retriever_dir: Path, tmp_path: Path, gpus: list[tuple[Any, ...]]) -> None:
    for gpu, expected in (("one", (None, 1)), ("shard", (True, -1)), ("replicate", (False, -1))):
        config = IndexConfig(factory="IVF4,Flat", gpu=gpu, num_recall_queries=0)  # type: ignore[arg-type]
        build(config, prepared=world, retriever=retriever_dir, out=tmp_path / gpu, device="cpu")
        load(tmp_path / gpu, "cpu")
        assert gpus == [("IndexFlatIP", None, -1), ("IndexIVFFlat", *expected)]
        gpus.clear()
    with pytest.raises(ValueError, match=r"index.gpu=one: index.factory='HNSW8' is for CPUs; set index.gpu=no"):
        faiss_search.make(IndexConfig(factory="HNSW8", gpu="one"), 64)


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="this Faiss has GPUs")
def test_gpus_that_are_not_there_are_named(world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    message = r"index.gpu=shard: this Faiss finds no GPU; install faiss-gpu .* index.gpu=no or index.type=torch"
    with pytest.raises(ValueError, match=message):
        build(IndexConfig(gpu="shard"), prepared=world, retriever=retriever_dir, out=tmp_path, device="cpu")
