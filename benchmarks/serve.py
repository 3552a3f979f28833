"""How many queries does the retrieval server answer on a CPU? Ours, and a plain Flask handler (serve_plain.py).

    python -m benchmarks.serve --workspace DIR    # writes benchmarks/results/serve.json; DIR keeps the indexes
    python -m benchmarks.serve --quick            # 200 passages, one short round: does the script run?

all-MiniLM-L6-v2 (extra `bench`), 100,000 passages made by recombining the sentences of hotpotqa and musique, 10 of them
a query, a Flat and an IVF index. Both servers speak MMOA-RAG's POST /search, each in a process of its own with the same
number of threads; the clients are one light process (serve_load.py). Questions:

- 32 clients, each with a query nobody asked before: requests/s, and the 99th percentile of the time to an answer;
- the same, with queries that were asked before;
- one request of 256 fresh queries, against encoding and searching them without a server.

The plain server has two forms, as it is written and one request at a time at the model; the faster one of the first
round counts. Sides take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import record
from benchmarks.command import SAMPLES
from benchmarks.real_questions import load as load_questions
from benchmarks.record import Case, alone, compared
from benchmarks.serve_data import build_indexes, fresh_queries

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "serve.json"
K = 10
CLIENTS = 32
OURS, PLAIN, LOCKED = "ours", "plain", "plain, one at a time"
NOTES = (
    "all-MiniLM-L6-v2, {passages} passages, {k} a query, {threads} threads for the models (ours: in {workers} "
    "process(es)), {clients} clients in one "
    "light process on the same machine; {handlers} handler threads of waitress on both sides. Median of {rounds} "
    "rounds, sides in turn; 99th percentile: median of those of the rounds. Theirs is the faster form of the plain "
    "server, by index: {forms}."
)


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    num_passages: int
    rounds: int
    fresh: int  # requests of a round
    repeated: int
    num_large: int  # requests of 256 queries

    @classmethod
    def of(cls, quick: bool) -> Effort:
        return cls(200, 1, 64, 300, 1) if quick else cls(100_000, 5, 800, 10_000, 7)


@dataclass(frozen=True)
class Threads:
    models: int  # for the models of a server
    workers: int  # processes of ours, which share them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 passages; writes no file unless --out is given")
    parser.add_argument("--out", type=Path, help="default: serve.json in benchmarks/results/; none with --quick")
    parser.add_argument("--samples", type=Path, default=SAMPLES, help="holds hotpotqa/ and musique/ (%(default)s)")
    parser.add_argument("--workspace", type=Path, help="keeps corpus and indexes for the next time (default: nothing)")
    parser.add_argument("--threads", type=int, default=2, help="of the models, on every side (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="of ours, which share the threads (%(default)s)")
    parser.add_argument("--rounds", type=int, help="default: 5; 1 with --quick")
    given = parser.parse_args()
    effort = Effort.of(given.quick)
    effort = replace(effort, rounds=given.rounds or effort.rounds)
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    data = load_questions(given.samples)
    with ExitStack() as stack:
        workspace = given.workspace or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        clusters = 4 if given.quick else 1024
        indexes = build_indexes(data, effort.num_passages, workspace, {"Flat": "Flat", "IVF": f"IVF{clusters},Flat"})
        queries = fresh_queries(data)
        measured = {
            name: measure(index, queries, effort, Threads(given.threads, given.workers))
            for name, index in indexes.items()
        }
    cases = [case for name, runs in measured.items() for case in compare(name, runs)]
    print(record.table(cases))
    out = given.out or (None if given.quick else RESULTS)
    if out:
        forms = ", ".join(f"{name}: {runs.form}" for name, runs in measured.items())
        notes = NOTES.format(
            passages=effort.num_passages, k=K, threads=given.threads, workers=given.workers, clients=CLIENTS,
            handlers=CLIENTS, rounds=effort.rounds, forms=forms,
        )  # fmt: skip
        record.write(out, cases, notes)
    return 0


# ---- servers and clients ---------------------------------------------------------------------------------------------


@contextmanager
def server(side: str, index: Path, threads: Threads) -> Iterator[str]:
    """Its address, once it is ready."""
    if side == OURS:
        module = ["retrieval_server", "--index", str(index), "--port", "0", "--device", "cpu"]
        module += ["--workers", str(threads.workers)] if threads.workers > 1 else []
        options = ["--num-threads", str(CLIENTS), "--torch-threads", str(max(1, threads.models // threads.workers))]
    else:
        module = ["benchmarks.serve_plain", str(index), *(["--one-at-a-time"] if side == LOCKED else [])]
        options = ["--threads", str(CLIENTS), "--torch-threads", str(threads.models)]
    command = [sys.executable, "-m", *module, *options]
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield _address(process, Path(log.name))
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while not (found := re.search(r"(?m)(?:^|ready: .*)(http://\S+:\d+)$", log.read_text())):
        if process.poll() is not None:
            raise SystemExit(f"a server did not start:\n{log.read_text()}")
        time.sleep(0.1)
    return found[1]


def load(url: str, queries: list[str]) -> tuple[float, float]:
    """Requests/s, and the 99th percentile of the seconds to an answer."""
    bodies = "\n".join(json.dumps({"questions": [query], "N": K}) for query in queries)
    command = [sys.executable, "-m", "benchmarks.serve_load", url, "/search", "--clients", str(CLIENTS)]
    done = subprocess.run(command, cwd=ROOT, input=bodies, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    if set(result["statuses"]) != {"200"}:
        raise SystemExit(f"{url} answered {result['statuses']}")
    latencies = sorted(result["latencies_s"])
    return len(queries) / result["seconds"], latencies[int(0.99 * (len(latencies) - 1))]


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Runs:
    """Of one index: by side, a number per round."""

    fresh: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    repeated: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    large_s: list[float] = field(default_factory=list)
    direct_s: list[float] = field(default_factory=list)
    form: str = PLAIN


def measure(index: Path, queries: Iterator[str], effort: Effort, threads: Threads) -> Runs:
    def some(count: int) -> list[str]:
        return list(itertools.islice(queries, count))

    runs = Runs()
    with server(OURS, index, threads) as ours:
        for side in (PLAIN, LOCKED):  # the faster form; a short round is enough to tell
            with server(side, index, threads) as url:
                load(url, some(CLIENTS))
                runs.fresh[side] = [load(url, some(max(CLIENTS, effort.fresh // 4)))]
        runs.form = max((PLAIN, LOCKED), key=lambda side: runs.fresh[side][0][0])
        runs.fresh = {OURS: [], runs.form: []}
        runs.repeated = {OURS: [], runs.form: []}
        with server(runs.form, index, threads) as theirs:
            urls = {OURS: ours, runs.form: theirs}
            asked_before = some(200)
            for url in urls.values():
                load(url, asked_before)
            for number in range(effort.rounds):
                fresh = some(effort.fresh)
                for side in list(urls) if number % 2 else list(urls)[::-1]:
                    runs.fresh[side].append(load(urls[side], fresh))
                    # as many as take about as long: the plain server answers a repeated query as any other
                    count = effort.repeated if side == OURS else effort.fresh
                    again = list(itertools.islice(itertools.cycle(asked_before), count))
                    runs.repeated[side].append(load(urls[side], again))
                    print(
                        f"{side}: {runs.fresh[side][-1][0]:.4g} fresh/s, {runs.repeated[side][-1][0]:.4g} repeated/s",
                        file=sys.stderr,
                    )
        measure_large(runs, ours, index, some, effort.num_large, threads.models)
    return runs


def measure_large(runs: Runs, url: str, index: Path, some: Any, count: int, torch_threads: int) -> None:
    """A request of 256 queries, with the client's whole work, and the same number of queries without a server."""
    import torch

    from jointrag.retrieval import HttpRetriever, InProcessRetriever

    torch.set_num_threads(torch_threads)
    client, direct = HttpRetriever(url, cache_size=0), InProcessRetriever.open(index, "cpu")
    for search in (client.search, direct.search):
        search(some(256), K)
    sides = [(runs.large_s, client.search), (runs.direct_s, direct.search)]
    for number in range(count):
        queries = some(256)
        for seconds, search in sides if number % 2 else sides[::-1]:
            started = time.perf_counter()
            search(queries, K)
            seconds.append(time.perf_counter() - started)


def compare(name: str, runs: Runs) -> list[Case]:
    def of(rounds: dict[str, list[tuple[float, float]]], place: int) -> tuple[float, float, dict[str, Any]]:
        values = {side: [one[place] for one in rounds[side]] for side in (OURS, runs.form)}
        return median(values[OURS]), median(values[runs.form]), {"rounds": values}

    speed, theirs, detail = of(runs.fresh, 0)
    p99, their_p99, p99_detail = of(runs.fresh, 1)
    again, their_again, again_detail = of(runs.repeated, 0)
    return [
        compared(f"{name}: {CLIENTS} clients, fresh queries", speed, theirs, "requests/s", ">= 2", detail),
        compared(f"{name}: 99th percentile of those", 1000 * p99, 1000 * their_p99, "ms", "<= 1", p99_detail),
        compared(f"{name}: queries asked before", again, their_again, "requests/s", ">= 30", again_detail),
        alone(f"{name}: 99th percentile of those, ours", 1000 * median(one[1] for one in runs.repeated[OURS]), "ms"),
        compared(
            f"{name}: one request of 256 queries, against no server",
            median(runs.large_s),
            median(runs.direct_s),
            "s",
            "<= 1.1",
            {"large_s": runs.large_s, "direct_s": runs.direct_s},
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
