"""How fast is agent data made, does memory grow with the questions, does the retriever find what it should?

    python -m benchmarks.agent_data            # writes benchmarks/results/agent_data.json
    python -m benchmarks.agent_data --quick

The samples of hotpotqa and musique (100 questions each) in all-MiniLM-L6-v2's vectors (extra `bench`), exact search,
default settings: all labels, exports and the data card. Questions/s leave the time in the retriever out, which answers
from what it found before; for this every question is there many times, with ids of its own. Memory: peak of a process
of its own, with few and with many questions. Recall of gold passages by the question itself, all 100 questions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import command, record
from benchmarks.real_questions import SOURCES, RealQuestions, load
from benchmarks.record import Case, alone, compared
from benchmarks.retrieval_training import minilm
from jointrag.config import AgentDataConfig, AgentsConfig
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.types import Hit, Passage

RESULTS = Path(__file__).parent / "results" / "agent_data.json"
DEPTH = 10
# recall@2, 5 and 10 of this encoder on these samples, computed apart from this code
KNOWN_RECALL = {"hotpotqa": (62.5, 78.5, 85.0), "musique": (47.2, 62.2, 70.3)}
TARGET_PER_S = 200


class Known:
    """A retriever that remembers what was found for each query, and the seconds it took to say it."""

    def __init__(self, folder: Path) -> None:
        passages = list(read_jsonl(folder / "corpus.jsonl", Passage))
        found = json.loads((folder / "found.json").read_text())
        self._hits = {query: [Hit(passages[i], 1.0) for i in positions] for query, positions in found.items()}
        self.seconds = 0.0

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        started = time.perf_counter()
        hits = [self._hits[query.strip()][:k] for query in queries]
        self.seconds += time.perf_counter() - started
        return hits


def prepare(data: RealQuestions, source: str, num_questions: int, folder: Path) -> None:
    """A folder as the prepare stage leaves it, with `num_questions` source questions, and what is found for each."""
    from jointrag.encoders import Encoder

    part = data.part[source]
    passages = [data.passages[i] for i in part]
    asked = [one.question for one in data.asked if one.source == source]
    copies = [replace(asked[i % len(asked)], id=f"q{i}") for i in range(num_questions)]
    write_jsonl(folder / "corpus.jsonl", passages)
    write_jsonl(folder / "questions" / "source.jsonl", copies)
    for split in ("train", "dev"):
        write_jsonl(folder / "questions" / f"{split}.jsonl", asked[:1])
    if not (folder / "found.json").exists():
        encoder = Encoder.load(minilm(), "cpu")
        queries = list(dict.fromkeys(text.strip() for q in asked for text in (q.text, *q.sub_questions)))
        vectors = encoder.encode([p.contents for p in passages], kind="passage", batch_size=64)
        scores = encoder.encode(queries, kind="query", batch_size=64) @ vectors.T
        positions = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        found = dict(zip(queries, positions.tolist(), strict=True))
        (folder / "found.json").write_text(json.dumps(found))


def make(folder: Path, out: Path) -> tuple[dict[str, float], float]:
    """The stage's metrics, and its seconds without those of the retriever."""
    from trainers.agent_data import build_with

    retriever = Known(folder)
    config = AgentDataConfig(num_warm_start_questions=10**9, exports=("trl", "alpaca"))
    started = time.perf_counter()
    metrics = build_with(retriever, config, AgentsConfig(), prepared=folder, seed=0, out=out)
    return metrics, time.perf_counter() - started - retriever.seconds


def peak_mib(folder: Path, out: Path) -> float:
    """Of a process that makes agent data."""
    code = (
        "import sys; from pathlib import Path; from benchmarks import agent_data, record\n"
        "agent_data.make(Path(sys.argv[1]), Path(sys.argv[2])); print(record.resident_mib('VmHWM'))"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(out)], capture_output=True, text=True, check=True
    )
    return float(made.stdout.split()[-1])


def main() -> None:
    parser = command.parser("agent_data", __doc__, "2,000 questions instead of 10,000", 3)
    given = command.parse(parser, threads=2)
    many = 2_000 if given.quick else 10_000
    data = load(given.samples)
    cases: list[Case] = []
    with TemporaryDirectory() as scratch:
        for source in SOURCES:
            folder, out = Path(scratch) / source, Path(scratch) / f"{source}-out"
            prepare(data, source, 100, folder)
            metrics, _ = make(folder, out)
            for depth, known in zip((2, 5, 10), KNOWN_RECALL[source], strict=True):
                found = 100 * metrics[f"agent_data/recall_at_{depth}"]
                cases.append(compared(f"{source}: recall@{depth}", found, known, "%", "within 0.5 points"))
            prepare(data, source, many, folder)
            seconds = [make(folder, out)[1] for _ in range(given.rounds)]
            rates = [many / s for s in seconds]
            target = f">= {TARGET_PER_S}"
            cases.append(alone(f"{source}: questions/s", median(rates), "1/s", target, {"rounds": rates}))
            most = peak_mib(folder, out)
            prepare(data, source, many // 10, folder)
            least = peak_mib(folder, out)
            case = f"{source}: peak memory of {many:,} questions, against {many // 10:,}"
            cases.append(compared(case, most, least, "MiB", "<= 1.05"))
    print(record.table(cases))
    if path := given.out or (None if given.quick else RESULTS):
        notes = (
            f"{many:,} questions; median of {given.rounds} rounds; retrieval not counted. Recall: theirs is the value "
            "known for this encoder and sample."
        )
        record.write(path, cases, notes)


if __name__ == "__main__":
    main()
