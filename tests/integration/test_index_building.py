"""How an index is built: resumed after a kill, by several processes, from another's vectors; and what is said of it."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jointrag.artifacts import Artifact, Recipe, produce
from jointrag.config import Bm25IndexConfig, HybridIndexConfig, IndexConfig, TorchIndexConfig
from jointrag.encoders import Encoder
from jointrag.index import Shards, Vectors, build, load, plan
from jointrag.index.encoding import encode_in_processes
from jointrag.jsonl import write_jsonl
from jointrag.types import Passage

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120
HERE: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}
# builds, but says so and waits before the third of 8 shards is encoded
STOPS = """
import sys, time
from pathlib import Path
from jointrag.config import IndexConfig
from jointrag.encoders import Encoder
from jointrag.index import build

encode, calls = Encoder.encode, []
def counting(self, texts, kind, batch_size=256):
    calls.append(kind)
    if len(calls) == 3:
        print("third", flush=True)
        time.sleep(600)
    return encode(self, texts, kind, batch_size)
Encoder.encode = counting
world, retriever, out = map(Path, sys.argv[1:])
build(IndexConfig(shard_size=16), prepared=world, retriever=retriever, out=out, device="cpu")
"""

# starts two processes that embed, and says which they are
STARTS = """
import subprocess, sys
from pathlib import Path
from jointrag.index import Shards, encoding

def saying(*arguments, popen=subprocess.Popen, **settings):
    process = popen(*arguments, **settings)
    print(process.pid, flush=True)
    return process
encoding.subprocess.Popen = saying
encoding.encode_in_processes(Shards.open(Path(sys.argv[1])), 2, "cpu")
"""


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many passages each call of the encoder embeds in this process."""
    counts: list[int] = []
    encode = Encoder.encode

    def counting(self: Encoder, texts: Any, kind: Any, batch_size: int = 256) -> Any:
        if kind == "passage":
            counts.append(len(texts))
        return encode(self, texts, kind, batch_size)

    monkeypatch.setattr(Encoder, "encode", counting)
    return counts


def everything(folder: Path) -> np.ndarray:
    vectors = Shards.open(folder / "vectors").vectors()
    return vectors[np.arange(len(vectors))]


def test_what_a_killed_build_has_embedded_is_kept(
    world: Path, retriever_dir: Path, tmp_path: Path, encoded: list[int]
) -> None:
    out = tmp_path / "index"
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS, str(world), str(retriever_dir), str(out)],
        stdout=subprocess.PIPE,
        **HERE,
    )
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], TIMEOUT_S)[0]
        assert process.stdout.readline() == b"third\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    shards = Shards.open(out / "vectors")
    assert shards.missing() == [2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="not a finished index"):
        load(out)
    (out / "vectors" / ".000002-x.npy.host.1").write_bytes(b"half of a shard")
    with shards.path(1).open("r+b") as file:  # a disk that was full, say
        file.truncate(300)
    build(IndexConfig(shard_size=16), prepared=world, retriever=retriever_dir, out=out, device="cpu")
    assert encoded == [16] * 7
    assert sorted(path.name[:8] for path in (out / "vectors").iterdir()) == [
        f"00000{i}-{shards.fingerprint[0]}" for i in range(8)
    ] + ["plan.jso"]
    build(IndexConfig(), prepared=world, retriever=retriever_dir, out=tmp_path / "whole", device="cpu")
    np.testing.assert_allclose(everything(out), everything(tmp_path / "whole"), atol=1e-3)


def test_the_stage_goes_on_where_it_was_and_starts_afresh_for_other_inputs(
    world: Path, retriever_dir: Path, tmp_path: Path, encoded: list[int]
) -> None:
    config = IndexConfig(shard_size=64)
    recipe = Recipe(
        "index", 1, {"config": config}, inputs={"prepared": Artifact("prepare", world, "x")}, resumable=True
    )

    def interrupted(out: Path) -> dict[str, float]:
        build(config, prepared=world, retriever=retriever_dir, out=out, device="cpu")
        (out / "index.json").unlink()
        raise KeyboardInterrupt

    def whole(out: Path) -> dict[str, float]:
        return build(config, prepared=world, retriever=retriever_dir, out=out, device="cpu")

    with pytest.raises(KeyboardInterrupt):
        produce(recipe, tmp_path, interrupted)
    assert encoded == [64, 64]
    artifact = produce(recipe, tmp_path, whole)
    assert encoded == [64, 64]
    assert load(artifact.path, "cpu").info.recall_at_10 == artifact.metrics["index/recall@10"] == 1

    passages = [Passage(f"p{i}", "", f"text {i}") for i in range(70)]
    write_jsonl(tmp_path / "other" / "corpus.jsonl", passages)
    build(config, prepared=tmp_path / "other", retriever=retriever_dir, out=artifact.path, device="cpu")
    assert encoded == [64, 64, 64, 6]
    assert len(load(artifact.path, "cpu").corpus) == len(everything(artifact.path)) == 70


def test_vectors_are_not_made_again_for_another_kind_of_index(
    world: Path, retriever_dir: Path, tmp_path: Path, encoded: list[int]
) -> None:
    build(IndexConfig(), prepared=world, retriever=retriever_dir, out=tmp_path / "one", device="cpu")
    build(IndexConfig(factory="HNSW8"), prepared=world, retriever=retriever_dir, out=tmp_path / "two", device="cpu")
    build(TorchIndexConfig(), prepared=world, retriever=retriever_dir, out=tmp_path / "three", device="cpu")
    assert encoded == [128]
    shards = [Shards.open(tmp_path / name / "vectors") for name in ("one", "two", "three")]
    assert len({shard.path(0).stat().st_ino for shard in shards}) == 1  # and take no room
    build(IndexConfig(truncate_dim=16), prepared=world, retriever=retriever_dir, out=tmp_path / "four", device="cpu")
    assert encoded == [128, 128]


def test_several_processes_make_the_same_vectors(
    world: Path, retriever_dir: Path, index_dir: Path, tmp_path: Path, encoded: list[int]
) -> None:
    config = IndexConfig(shard_size=32)
    build(config, prepared=world, retriever=retriever_dir, out=tmp_path / "index", device="cpu", num_processes=2)
    assert not encoded
    assert [path for path in (tmp_path / "index" / "vectors").iterdir() if path.name.startswith(".")] == []
    np.testing.assert_allclose(everything(tmp_path / "index"), everything(index_dir), atol=1e-3)


def test_a_process_that_fails_says_why(retriever_dir: Path, index_dir: Path, tmp_path: Path) -> None:
    shards = Shards.plan(
        tmp_path / "vectors",
        corpus=index_dir / "corpus",
        corpus_fingerprint="any",
        model=tmp_path,  # no model
        shard_size=64,
    )
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1.*not a sentence-transformers model folder"):
        encode_in_processes(shards, 2, "cpu")


def test_processes_end_with_the_one_that_started_them(retriever_dir: Path, index_dir: Path, tmp_path: Path) -> None:
    model = retriever_dir / "model"
    shards = Shards.plan(tmp_path, corpus=index_dir / "corpus", corpus_fingerprint="any", model=model, shard_size=1)
    process = subprocess.Popen([sys.executable, "-c", STARTS, str(tmp_path)], stdout=subprocess.PIPE, **HERE)
    assert process.stdout is not None
    try:
        pidfds = [os.pidfd_open(int(process.stdout.readline())) for _ in range(2)]
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], TIMEOUT_S)[0], "it still runs"
        os.close(pidfd)
    assert len(shards.missing()) > 100


def test_shards_can_be_made_one_by_one_in_any_order(retriever_dir: Path, index_dir: Path, tmp_path: Path) -> None:
    Shards.plan(
        tmp_path,
        corpus=index_dir / "corpus",
        corpus_fingerprint="any",
        model=retriever_dir / "model",
        shard_size=60,
    )
    shards = Shards.open(tmp_path)
    encoder = Encoder.load(shards.model, "cpu")
    assert (len(shards), shards.missing(), shards.size(2)) == (3, [0, 1, 2], 8)
    for number in (2, 0):
        assert shards.encode(number, encoder) == shards.path(number)
    assert shards.missing() == [1]
    with pytest.raises(ValueError, match=r"000001-.*no such file; build the index again"):
        shards.vectors()
    with pytest.raises(IndexError, match="shard 3 of 3"):
        shards.encode(3, encoder)
    shards.encode(1, encoder)
    np.testing.assert_allclose(everything(index_dir), shards.vectors()[np.arange(128)], atol=1e-3)


def test_a_build_finds_shards_that_were_made_elsewhere(
    world: Path, retriever_dir: Path, tmp_path: Path, encoded: list[int]
) -> None:
    config = HybridIndexConfig(dense=IndexConfig(shard_size=64, truncate_dim=32))
    shards = plan(config, prepared=world, retriever=retriever_dir, out=tmp_path / "index")
    encoder = Encoder.load(shards.model, "cpu")
    for number in shards.missing():
        Shards.open(tmp_path / "index" / "vectors").encode(number, encoder)
    build(config, prepared=world, retriever=retriever_dir, out=tmp_path / "index", device="cpu")
    assert encoded == [64, 64]
    assert load(tmp_path / "index", "cpu").info.dim == 32
    with pytest.raises(ValueError, match="type bm25 has no vectors"):
        plan(Bm25IndexConfig(), prepared=world, retriever=retriever_dir, out=tmp_path / "index")


def test_vectors_are_read_by_place_and_by_block() -> None:
    rows = np.random.default_rng(0).normal(size=(25, 4)).astype(np.float16)
    vectors = Vectors([rows[:10], rows[10:20], rows[20:]])
    places = np.array([24, 0, 10, 9, 24, 19, 20])
    np.testing.assert_array_equal(vectors[places], rows[places].astype(np.float32))
    assert [len(block) for block in vectors.blocks(4)] == [4, 4, 2, 4, 4, 2, 4, 1]
    np.testing.assert_array_equal(np.concatenate(list(vectors.blocks(7))), rows)
    assert len(vectors) == 25 and vectors[np.array([], dtype=np.int64)].shape == (0, 4)


def test_numbers_that_are_none_are_refused_with_their_passage(
    world: Path, retriever_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Encoder.encode

    def broken(self: Encoder, texts: Any, kind: Any, batch_size: int = 256) -> Any:
        found = encode(self, texts, kind, batch_size)
        found[3] = np.nan
        return found

    monkeypatch.setattr(Encoder, "encode", broken)
    with pytest.raises(ValueError, match="the vector of passage 'birth-1' has numbers that are none"):
        build(IndexConfig(), prepared=world, retriever=retriever_dir, out=tmp_path / "index", device="cpu")


def test_bm25_leaves_the_encoder_alone(world: Path, tmp_path: Path) -> None:
    metrics = build(Bm25IndexConfig(), prepared=world, out=tmp_path)
    assert set(metrics) == {"index/passages", "index/bytes", "index/passages_per_s"}
    info = load(tmp_path).info
    assert (info.dim, info.encoder_paths, info.recall_at_10) == (0, (), None)
