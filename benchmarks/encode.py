"""How fast is a corpus encoded on a CPU? Ours, and sentence-transformers' encode.

    python -m benchmarks.encode            # writes benchmarks/results/encode.json
    python -m benchmarks.encode --quick    # some 60 passages, once: does the script run?

all-MiniLM-L6-v2 (extra `bench`) encodes the passages of musique, and those of musique and t2ranking in turn, whose
lengths and scripts are mixed. Each side does the whole job: it reads JSON lines from the disk, tokenises, encodes and
writes vectors in fp16. Sides:

- ours: a corpus and its shards (jointrag.corpus, jointrag.index.shards), with the encoder as it is by default;
- ours, bf16: the same with `Encoder.load(..., backend="bf16")`, meant for processors that multiply bfloat16 (AMX,
  AVX512-BF16);
- sentence-transformers: reads the file, `encode_document` of all texts in float32 at the batch size that is fastest
  here (tried once each), and `np.save`.

Vectors of the two in float32 must be equal, or nothing is recorded. Sides take turns, in another order each round.
What bfloat16 costs is measured as recall@10 of musique's supporting passages among musique's passages, against our
float32. Last, queries are encoded one at a time.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from benchmarks import command, record
from benchmarks.record import Case, alone, compared
from benchmarks.retrieval_training import DATA, minilm
from jointrag import corpus as corpus_files
from jointrag.encoders import Encoder
from jointrag.index.exact import nearest
from jointrag.index.shards import Shards
from jointrag.jsonl import write_jsonl
from jointrag.types import Passage
from trainers.retrieval.records import Record, open_records

RESULTS = Path(__file__).parent / "results" / "encode.json"
THREADS = 2
BATCH_SIZES = (4, 8, 16, 32, 64)
SAME_VECTOR = 1e-5
DEPTHS = (5, 10, 20, 50)  # of recall
OURS, HALF, THEIRS = "ours", "ours, bf16", "sentence-transformers"
CORPORA = {"musique": ("musique",), "musique and t2ranking": ("musique", "t2ranking")}
TARGETS = {OURS: ">= 1", HALF: ">= 1.8"}  # over sentence-transformers in float32, in passages/s
NOTES = (
    "all-MiniLM-L6-v2, {threads} threads; {sizes} passages, read from JSON lines, encoded and written in fp16; median "
    "of {rounds} rounds, sides in turn, after a warm-up. sentence-transformers takes {batch_sizes} passages at a time, "
    "the fastest of {tried}. Recall@10: of the supporting passages of {questions} questions among musique's passages. "
    "One query at a time: median of {queries} queries."
)

Vectors = NDArray[np.floating]
Encoding = Callable[[Path, Path], Vectors]  # (a corpus, an empty folder) -> what was written


def main() -> int:
    given = command.parse(command.parser("encode", __doc__, "some 60 passages, one round", rounds=3), THREADS)
    rounds, tried = (1, (16,)) if given.quick else (given.rounds, BATCH_SIZES)
    model = SentenceTransformer(minilm(), device="cpu")
    encoders = {OURS: Encoder.load(minilm(), "cpu"), HALF: Encoder.load(minilm(), "cpu", backend="bf16")}
    cases: list[Case] = []
    sizes, batch_sizes = [], []
    with tempfile.TemporaryDirectory() as folder:
        asked = {name: questions(name, 1 if given.quick else None, given.samples, Path(folder)) for name in DATA}
        for name, sources in CORPORA.items():
            texts = in_turn([passages(asked[source]) for source in sources])
            cases.append(same_vectors(name, encoders[OURS], model, texts[:: max(1, len(texts) // 100)]))
            batch_size = fastest(model, texts[::10], tried)
            corpus = write_corpus(texts, Path(folder) / "corpus.jsonl")
            sides = {side: ours(encoder) for side, encoder in encoders.items()}
            runs = measure({**sides, THEIRS: theirs(model, batch_size)}, corpus, Path(folder) / "out", rounds)
            cases += compare(name, runs, len(texts))
            if name == "musique":
                cases += recall(encoders, {side: found[0].vectors for side, found in runs.items()}, texts, asked[name])
            sizes.append(len(texts))
            batch_sizes.append(batch_size)
    queries = [one.query for one in asked["musique"]]
    cases.append(one_at_a_time(encoders[OURS], model, queries))
    print(record.table(cases))
    out = given.out or (None if given.quick else RESULTS)
    if out:
        notes = NOTES.format(
            threads=THREADS, sizes=" and ".join(map(str, sizes)), rounds=rounds, queries=len(queries),
            batch_sizes=" and ".join(map(str, batch_sizes)), tried=", ".join(map(str, tried)), questions=len(queries),
        )  # fmt: skip
        record.write(out, cases, notes)
    return 0


# ---- data ------------------------------------------------------------------------------------------------------------


def questions(name: str, count: int | None, samples: Path, folder: Path) -> list[Record]:
    """Queries with their passages: those that answer, and others."""
    return list(open_records(DATA[name](samples, folder), cache=folder / "records"))[:count]


def passages(asked: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(text for one in asked for text in (*one.positives, *one.negatives)))


def in_turn(sources: Sequence[list[str]]) -> list[str]:
    """One of each, as long as there are some."""
    longest = max(map(len, sources))
    return list(dict.fromkeys(source[i] for i in range(longest) for source in sources if i < len(source)))


def write_corpus(texts: Sequence[str], path: Path) -> Path:
    write_jsonl(path, (Passage(str(i), "", text) for i, text in enumerate(texts)))
    return path


# ---- sides -----------------------------------------------------------------------------------------------------------


def ours(encoder: Encoder) -> Encoding:
    def encode(corpus: Path, out: Path) -> Vectors:
        fingerprint = corpus_files.build(corpus, out / "corpus")
        shards = Shards.plan(
            out / "vectors", corpus=out / "corpus", corpus_fingerprint=fingerprint, model=Path(minilm())
        )
        for number in shards.missing():
            shards.encode(number, encoder)
        return np.concatenate(list(shards.vectors().blocks()))

    return encode


def theirs(model: SentenceTransformer, batch_size: int) -> Encoding:
    def encode(corpus: Path, out: Path) -> Vectors:
        with corpus.open(encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in file]
        vectors = model.encode_document(
            texts, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        np.save(out / "vectors.npy", np.asarray(vectors, dtype=np.float16))
        return np.load(out / "vectors.npy")

    return encode


def fastest(model: SentenceTransformer, texts: list[str], batch_sizes: Sequence[int]) -> int:
    """The batch size at which sentence-transformers is fastest."""

    def seconds(batch_size: int) -> float:
        start = time.perf_counter()
        model.encode_document(texts, batch_size=batch_size, show_progress_bar=False)
        return time.perf_counter() - start

    model.encode_document(texts[:8], show_progress_bar=False)
    return min(batch_sizes, key=seconds)


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_seconds: float  # of all threads: what other processes take away does not count
    vectors: Vectors


def measure(sides: dict[str, Encoding], corpus: Path, out: Path, rounds: int) -> dict[str, list[Run]]:
    warm_up = corpus.with_name("warm_up.jsonl")
    warm_up.write_text("".join(corpus.read_text("utf-8").splitlines(keepends=True)[:8]), "utf-8")
    for encode in sides.values():
        timed(encode, warm_up, out)
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for number in range(rounds):
        order = list(sides)
        for side in order[number % len(order) :] + order[: number % len(order)]:
            runs[side].append(timed(sides[side], corpus, out))
            found = runs[side][-1]
            print(f"{side}: {len(found.vectors) / found.seconds:.3g} passages/s", file=sys.stderr)
    return runs


def timed(encode: Encoding, corpus: Path, out: Path) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    start, cpu_start = time.perf_counter(), time.process_time()
    vectors = encode(corpus, out)
    return Run(time.perf_counter() - start, time.process_time() - cpu_start, vectors)


def same_vectors(name: str, encoder: Encoder, model: SentenceTransformer, texts: list[str]) -> Case:
    """Raises SystemExit when the two differ in float32: then their speeds say nothing."""
    expected = model.encode_document(texts, normalize_embeddings=True, show_progress_bar=False)
    difference = float(np.abs(encoder.encode(texts, "passage") - np.asarray(expected)).max())
    if not difference <= SAME_VECTOR:
        raise SystemExit(f"{name}: vectors of ours and sentence-transformers differ by {difference:.2g}")
    return alone(f"{name}, vectors differ by", difference, "", f"<= {SAME_VECTOR:g}")


def compare(name: str, runs: dict[str, list[Run]], num_passages: int) -> list[Case]:
    def detail(side: str) -> dict[str, list[float]]:
        return {
            "seconds": [round(run.seconds, 2) for run in runs[side]],
            "cpu_seconds": [round(run.cpu_seconds, 2) for run in runs[side]],
        }

    def speed(side: str) -> float:
        return num_passages / median(run.seconds for run in runs[side])

    return [
        compared(
            f"{name}, {side}",
            speed(side),
            speed(THEIRS),
            "passages/s",
            target,
            {
                side: detail(side),
                THEIRS: detail(THEIRS),
                "cpu_ratios": [
                    round(other.cpu_seconds / mine.cpu_seconds, 2)
                    for mine, other in zip(runs[side], runs[THEIRS], strict=True)
                ],
            },
        )
        for side, target in TARGETS.items()
    ]


def recall(
    encoders: dict[str, Encoder], vectors: dict[str, Vectors], texts: list[str], asked: Sequence[Record]
) -> list[Case]:
    """Recall@10 in percent against float32's. One passage more or less is up to a point, so other depths stand beside.
    As an index has it, bfloat16's passages are searched with float32's queries; then all in bfloat16."""
    place = {text: i for i, text in enumerate(texts)}
    gold = [{place[text] for text in one.positives} for one in asked]
    queries = {side: encoder.encode([one.query for one in asked], "query") for side, encoder in encoders.items()}

    def measured(of_queries: str, of_passages: str) -> dict[int, float]:
        found, _ = nearest(queries[of_queries], [vectors[of_passages].astype(np.float32)], max(DEPTHS))
        rows = list(zip(gold, found.tolist(), strict=True))
        return {k: round(100 * mean(len(want & set(row[:k])) / len(want) for want, row in rows), 2) for k in DEPTHS}

    exact = measured(OURS, OURS)
    sides = {"passages bf16": ((OURS, HALF), "1 point less at most"), "passages and queries bf16": ((HALF, HALF), "")}
    cases = []
    for name, (pair, target) in sides.items():
        found = measured(*pair)
        detail = {"depth": list(DEPTHS), "ours": list(found.values()), "theirs": list(exact.values())}
        cases.append(compared(f"musique, recall@10, {name}", found[10], exact[10], "%", target, detail))
    return cases


def one_at_a_time(encoder: Encoder, model: SentenceTransformer, queries: Sequence[str]) -> Case:
    """Milliseconds of a query that comes alone, sides in turn."""
    seconds: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for query in [queries[0], *queries]:
        start = time.perf_counter()
        encoder.encode([query], "query")
        between = time.perf_counter()
        model.encode_query([query], normalize_embeddings=True, show_progress_bar=False)
        seconds[OURS].append(between - start)
        seconds[THEIRS].append(time.perf_counter() - between)
    mine, others = (1000 * median(found[1:]) for found in seconds.values())
    return compared("one query at a time", mine, others, "ms", "<= 1.1")


if __name__ == "__main__":
    sys.exit(main())
