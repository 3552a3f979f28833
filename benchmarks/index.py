"""What does building an index cost beside Faiss alone, and what do the kinds of index cost and find?

    python -m benchmarks.index              # 1 million vectors of 384; writes benchmarks/results/index.json
    python -m benchmarks.index --quick      # 20,000 vectors of 64, once: does the script run?

Both sides start from vectors on disk and end with the index on disk, each time in a process of its own:

- ours: `jointrag.index.faiss_search`, from shards of fp16 vectors, as a pipeline builds it;
- theirs: Faiss alone, a few lines: float32 vectors mapped from one file, as many of them to train on, one call of add.

Seconds are from the first line after the imports. Memory is the peak of what a process holds for itself (RssAnon,
above what it held at the start; read every few milliseconds): pages of mapped files count on neither side, since the
system takes them back when others need the room.

Vectors are clustered, for no index finds anything but by chance among directions drawn evenly: points of 32 dimensions
around a centre for every 100 of them, turned into the full number of dimensions, with a little noise, at unit length.
Queries are made in the same way. Recall is against exact search over the same fp16 vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.record import Case, alone, compared
from jointrag.config import IndexConfig
from jointrag.index import Vectors, faiss_search
from jointrag.index.faiss_parts import Parts
from jointrag.index.recall import recall

RESULTS = Path(__file__).parent / "results" / "index.json"
PACKAGES = ("faiss-cpu", "numpy", "torch")
TARGET = "<= 1.1"
SHARD = 16_384
LATENT, PER_CENTER = 32, 100
SEARCHED_AT_ONCE = 100
OURS, THEIRS = "ours", "theirs"
WIKIPEDIA = (21_000_000, 768)  # what the numbers are extrapolated to
KINDS = {
    "Flat": IndexConfig(),
    "SQ8": IndexConfig(factory="SQ8"),
    "IVF-PQ": IndexConfig(factory="IVF1024,PQ48"),
    "signs": IndexConfig(factory="BFlat"),
    "HNSW": IndexConfig(factory="HNSW16"),  # the slowest one last
}
QUICK = KINDS | {"IVF-PQ": IndexConfig(factory="IVF64,PQ16x4", num_training_passages=5_000)}
RESCORED = {"IVF-PQ": 10}  # searched a second time with the fp16 vectors' word
NOTES = (
    "{count} clustered vectors of {dim} dimensions, {threads} threads, {queries} queries, {at_once} at a time; median "
    "of {rounds} rounds, sides in turn. Factories: {factories}. Signs are rescored 10-fold."
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 vectors, one round; no file unless --out is given")
    parser.add_argument("--out", type=Path, help="default: index.json in benchmarks/results/; none with --quick")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-vectors", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=record.num_cores())
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--work", type=Path, help="a folder for some 6 GB, removed at the end; default: the system's")
    parser.add_argument("--build", nargs=3, metavar=("SIDE", "KIND", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    kinds = QUICK if given.quick else KINDS
    if given.build:
        side, kind, folder = given.build
        print(json.dumps(build(side, kinds[kind], Path(folder))))
        return 0
    count, dim, num_queries = (20_000, 64, 100) if given.quick else (given.num_vectors, 384, 1_000)
    rounds = 1 if given.quick else given.rounds
    with tempfile.TemporaryDirectory(dir=given.work) as name:
        folder = Path(name)
        say(f"writing {count:,} vectors to {folder}")
        queries = write_vectors(folder, count, dim, num_queries)
        cases: list[Case] = []
        out = given.out or (None if given.quick else RESULTS)
        for number, kind in enumerate(given.kinds, 1):
            cases += measure(kind, kinds[kind], folder, queries, rounds, given)
            if out:  # after each kind: some take long
                notes = NOTES.format(
                    count=f"{count:,}", dim=dim, threads=given.threads, queries=num_queries, at_once=SEARCHED_AT_ONCE,
                    rounds=rounds, factories=", ".join(kinds[kind].factory for kind in given.kinds[:number]),
                )  # fmt: skip
                record.write(out, cases, notes, packages=PACKAGES)
    print(record.table(cases))
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- vectors ---------------------------------------------------------------------------------------------------------


def write_vectors(folder: Path, count: int, dim: int, num_queries: int) -> NDArray[np.float32]:
    """The same vectors as fp16 shards and as one float32 file; returns the queries. See the module."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((count // PER_CENTER, LATENT), dtype=np.float32)
    turn = rng.standard_normal((LATENT, dim), dtype=np.float32) / np.float32(np.sqrt(LATENT))

    def draw(size: int) -> NDArray[np.float32]:
        inner = centers[rng.integers(len(centers), size=size)]
        inner += np.float32(0.5) * rng.standard_normal(inner.shape, dtype=np.float32)
        rows = inner @ turn + np.float32(0.1) * rng.standard_normal((size, dim), dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    whole = np.lib.format.open_memmap(folder / "whole.npy", "w+", np.float32, (count, dim))
    for number, start in enumerate(range(0, count, SHARD)):
        shard = draw(min(SHARD, count - start)).astype(np.float16)
        np.save(folder / f"shard-{number:04d}.npy", shard)
        whole[start : start + len(shard)] = shard
    whole.flush()
    return draw(num_queries)


def shards(folder: Path) -> Vectors:
    return Vectors([np.load(path, mmap_mode="r") for path in sorted(folder.glob("shard-*.npy"))])


# ---- building, in a process of its own -------------------------------------------------------------------------------


def build(side: str, config: IndexConfig, folder: Path) -> dict[str, float]:
    import faiss

    side_of: dict[str, Callable[[IndexConfig, Path, Path], Any]] = {OURS: ours, THEIRS: theirs}
    out = folder / f"{side}.index"
    out.unlink(missing_ok=True)
    with Peak() as peak:
        start, cpu_start = time.perf_counter(), time.process_time()
        index = side_of[side](config, folder, out)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    del index
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_mib": peak.mib,
        "peak_with_mapped_files_mib": record.resident_mib("VmHWM"),
        "num_bytes": out.stat().st_size,
        "threads": faiss.omp_get_max_threads(),
    }


def ours(config: IndexConfig, folder: Path, out: Path) -> Any:
    vectors = shards(folder)
    index = faiss_search.make(config, vectors.dim)
    faiss_search.fill(index, vectors, config)
    faiss_search.write(index, out)
    return index


def theirs(config: IndexConfig, folder: Path, out: Path) -> Any:
    import faiss

    vectors: Any = np.load(folder / "whole.npy", mmap_mode="r")
    if config.factory.startswith("B"):
        binary = faiss.index_binary_factory(vectors.shape[1], config.factory)
        binary.add(np.packbits(vectors > 0, axis=1))
        faiss.write_index_binary(binary, str(out))
        return binary
    index = faiss.index_factory(vectors.shape[1], config.factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        sample = faiss_search.num_training(config, Parts.of(index), len(vectors))
        index.train(vectors[np.random.default_rng(0).choice(len(vectors), sample, replace=False)])
    index.add(vectors)
    faiss.write_index(index, str(out))
    return index


class Peak:
    """The most memory that this process held for itself meanwhile, above what it had before."""

    def __enter__(self) -> Peak:
        self._start = self._most = record.resident_mib("RssAnon")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(0.005)
            self._most = max(self._most, record.resident_mib("RssAnon"))

    @property
    def mib(self) -> float:
        return self._most - self._start


# ---- measuring -------------------------------------------------------------------------------------------------------


def measure(
    kind: str, config: IndexConfig, folder: Path, queries: NDArray[np.float32], rounds: int, given: argparse.Namespace
) -> list[Case]:
    runs: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    for number in range(rounds):
        for side in (OURS, THEIRS) if number % 2 == 0 else (THEIRS, OURS):
            runs[side].append(in_a_process(side, kind, folder, given))
            say(f"{kind}, {side}: {runs[side][-1]['seconds']:.1f} s, {runs[side][-1]['peak_mib']:.0f} MiB")

    def middle(side: str, name: str) -> float:
        return median(run[name] for run in runs[side])

    vectors = shards(folder)
    detail = {"factory": config.factory, **runs}
    cases = [
        compared(f"{kind}: build", middle(OURS, "seconds"), middle(THEIRS, "seconds"), "s", TARGET, detail),
        compared(f"{kind}: peak memory", middle(OURS, "peak_mib"), middle(THEIRS, "peak_mib"), "MiB", TARGET),
        alone(f"{kind}: on disk", middle(OURS, "num_bytes") / len(vectors), "bytes a vector"),
        alone(f"{kind}: build", 1e6 * middle(OURS, "cpu_seconds") / len(vectors), "µs of CPU a vector"),
        alone(f"{kind}: 21 million x 768, in memory", extrapolated_gib(config), "GiB"),
    ]
    cases += searched(kind, config, folder, vectors, queries)
    if kind in RESCORED:
        rescored = config.model_copy(update={"rescore": RESCORED[kind]})
        cases += searched(f"{kind}, rescored {RESCORED[kind]}-fold", rescored, folder, vectors, queries)
    return cases


def in_a_process(side: str, kind: str, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.index", "--build", side, kind, str(folder)]
    command += ["--quick"] if given.quick else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout)


def extrapolated_gib(config: IndexConfig) -> float:
    count, dim = WIKIPEDIA
    return count * Parts.of(faiss_search.make(config, dim)).bytes_per_vector / 2**30


def searched(
    name: str, config: IndexConfig, folder: Path, vectors: Vectors, queries: NDArray[np.float32]
) -> list[Case]:
    """recall@10 and queries a second of the index that our side built last."""
    search = faiss_search.FaissSearch.open(folder / f"{OURS}.index", vectors, config)
    search.nearest(queries[:SEARCHED_AT_ONCE], 10)  # pages are read, threads start
    start = time.perf_counter()
    for first in range(0, len(queries), SEARCHED_AT_ONCE):
        search.nearest(queries[first : first + SEARCHED_AT_ONCE], 10)
    per_s = len(queries) / (time.perf_counter() - start)
    found = recall(search, vectors, queries, "cpu")
    say(f"{name}: recall@10 {found:.3f}, {per_s:.0f} queries/s")
    return [alone(f"{name}: recall@10", found, ""), alone(f"{name}: search", per_s, "queries/s")]


if __name__ == "__main__":
    raise SystemExit(main())
