"""How fast is ranking on a CPU? Ours, sentence-transformers' CrossEncoder, and the loop of RAG-Retrieval 0.2.2.

    python -m benchmarks.rank              # writes benchmarks/results/rank.json
    python -m benchmarks.rank --quick      # 60 pairs, once: does the script run?

A cross-encoder of all-MiniLM-L6-v2's weights (extra `bench`) with a random head scores 1,000 pairs of t2ranking and
musique, whose lengths are mixed, cut at 512 tokens. Sides:

- ours: `Reranker.score` as it is by default, in float32;
- ours, bf16: the same with dtype="bf16", which is meant for processors that multiply bfloat16 (AMX, AVX512-BF16);
- sentence-transformers: `CrossEncoder.predict` at the batch size that is fastest here (tried once each);
- RAG-Retrieval's loop: 256 pairs in the order they come, padded to the longest (its package needs an older
  transformers, so it is written out here).

Float32 sides must agree on every score, or nothing is recorded. Sides take turns, in another order each round.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
from scipy.stats import kendalltau

from benchmarks import command, record
from benchmarks.record import Case, alone, compared
from benchmarks.retrieval_training import DATA, minilm
from jointrag import Reranker
from trainers.retrieval.records import open_records

RESULTS = Path(__file__).parent / "results" / "rank.json"
THREADS = 2
LENGTH = 512
BATCH_SIZES = (8, 16, 32, 64, 128)
SAME_SCORE = 1e-4
OURS, HALF, THEIRS, LOOP = "ours", "ours, bf16", "sentence-transformers", "RAG-Retrieval's loop"
TARGETS = {  # of ours over the other side, in pairs/s
    (OURS, THEIRS): ">= 1",
    (OURS, LOOP): ">= 2.5",
    (HALF, THEIRS): ">= 2",
}
NOTES = (
    "all-MiniLM-L6-v2's weights with a random head, {threads} threads, {pairs} pairs of t2ranking and musique cut at "
    "512 tokens; median of {rounds} rounds, sides in turn, after a warm-up. sentence-transformers takes {batch_size} "
    "pairs at a time, the fastest of {batch_sizes}. Kendall's tau: mean over the queries, against float32."
)

Pairs = list[tuple[str, str]]
Scoring = Callable[[Pairs], list[float]]


def main() -> int:
    given = command.parse(command.parser("rank", __doc__, "60 pairs, one round", rounds=3), THREADS)
    rounds = 1 if given.quick else given.rounds
    with tempfile.TemporaryDirectory() as folder:
        pairs = mixed_pairs(60 if given.quick else 1_000, given.samples, Path(folder))
        model = with_head(Path(folder) / "model")
        batch_size = fastest(model, pairs[::5], BATCH_SIZES[:1] if given.quick else BATCH_SIZES)
        runs = measure(sides(model, batch_size), pairs, rounds)
    cases = compare(runs, pairs)
    print(record.table(cases))
    out = given.out or (None if given.quick else RESULTS)
    if out:
        notes = NOTES.format(
            threads=THREADS, pairs=len(pairs), rounds=rounds, batch_size=batch_size,
            batch_sizes=", ".join(map(str, BATCH_SIZES)),
        )  # fmt: skip
        record.write(out, cases, notes)
    return 0


# ---- data and model --------------------------------------------------------------------------------------------------


def mixed_pairs(count: int, samples: Path, folder: Path) -> Pairs:
    """Queries with all of their texts, as many pairs of either data set, one query of each in turn."""
    by_query = []
    for prepare in DATA.values():
        records = open_records(prepare(samples, folder), cache=folder / "records")
        found: list[Pairs] = []
        for one in records:
            found.append([(one.query, text) for text in (*one.positives, *one.negatives)])
            if sum(map(len, found)) >= count // len(DATA):
                break
        by_query.append(found)
    turns = [found[i] for i in range(max(map(len, by_query))) for found in by_query if i < len(found)]
    return [pair for pairs in turns for pair in pairs][:count]


def with_head(folder: Path) -> str:
    """A cross-encoder that has yet to learn: scores lie close together, which is hard on the order in bfloat16."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(minilm(), num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(minilm(), model_max_length=LENGTH)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


# ---- sides -----------------------------------------------------------------------------------------------------------


def sides(model: str, batch_size: int) -> dict[str, Scoring]:
    def ours(dtype: str) -> Scoring:
        return Reranker(model, device="cpu", dtype=dtype, max_length=LENGTH, verbose=0).score

    return {
        OURS: ours("float32"),
        HALF: ours("bf16"),
        THEIRS: sentence_transformers(model, batch_size),
        LOOP: padded_loop(model),
    }


def sentence_transformers(model: str, batch_size: int) -> Scoring:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(model, device="cpu", max_length=LENGTH)
    return lambda pairs: encoder.predict(
        pairs, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False
    ).tolist()


def padded_loop(model: str, batch_size: int = 256) -> Scoring:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    encoder = AutoModelForSequenceClassification.from_pretrained(model).eval()

    def score(pairs: Pairs) -> list[float]:
        scores: list[float] = []
        with torch.no_grad():
            for start in range(0, len(pairs), batch_size):
                queries, texts = zip(*pairs[start : start + batch_size], strict=True)
                tokens = tokenizer(
                    list(queries), list(texts), padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
                )
                scores += encoder(**tokens).logits[:, 0].tolist()
        return scores

    return score


def fastest(model: str, pairs: Pairs, batch_sizes: Sequence[int]) -> int:
    """The batch size at which sentence-transformers is fastest."""
    sentence_transformers(model, batch_sizes[0])(pairs[:8])
    return min(batch_sizes, key=lambda size: timed(sentence_transformers(model, size), pairs).seconds)


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_seconds: float  # of all threads: what other processes take away does not count
    scores: list[float]


def timed(score: Scoring, pairs: Pairs) -> Run:
    start, cpu_start = time.perf_counter(), time.process_time()
    scores = score(pairs)
    return Run(time.perf_counter() - start, time.process_time() - cpu_start, scores)


def measure(scorings: dict[str, Scoring], pairs: Pairs, rounds: int) -> dict[str, list[Run]]:
    """Raises SystemExit when two sides in float32 differ on a score: then their speeds say nothing."""
    runs: dict[str, list[Run]] = {side: [] for side in scorings}
    for score in scorings.values():
        score(pairs[:8])
    for number in range(rounds):
        order = list(scorings)
        for side in order[number % len(order) :] + order[: number % len(order)]:
            runs[side].append(timed(scorings[side], pairs))
            print(f"{side}: {len(pairs) / runs[side][-1].seconds:.3g} pairs/s", file=sys.stderr)
    for other in (THEIRS, LOOP):
        if not difference(runs[OURS][0], runs[other][0]) <= SAME_SCORE:
            raise SystemExit(f"ours and {other} differ by {difference(runs['ours'][0], runs[other][0]):.2g}")
    return runs


def compare(runs: dict[str, list[Run]], pairs: Pairs) -> list[Case]:
    cases = [
        alone(f"scores differ by, {other}", difference(runs[OURS][0], runs[other][0]), "", f"<= {SAME_SCORE:g}")
        for other in (THEIRS, LOOP)
    ]
    for side, other in TARGETS:
        mine, its = (len(pairs) / median(run.seconds for run in runs[name]) for name in (side, other))
        cpu = {name: [round(run.cpu_seconds, 2) for run in runs[name]] for name in (side, other)}
        case = f"{side}, against {other}"
        cases.append(compared(case, mine, its, "pairs/s", TARGETS[side, other], {"cpu_seconds": cpu}))
    found = tau(runs[OURS][0].scores, runs[HALF][0].scores, pairs)
    return [*cases, alone(f"{HALF}: Kendall's tau", found, "", ">= 0.97")]


def difference(one: Run, other: Run) -> float:
    return max(abs(a - b) for a, b in zip(one.scores, other.scores, strict=True))


def tau(expected: Sequence[float], found: Sequence[float], pairs: Pairs) -> float:
    """Mean over the queries that have at least 5 texts."""
    rows: dict[str, list[int]] = {}
    for i, (query, _) in enumerate(pairs):
        rows.setdefault(query, []).append(i)
    return mean(
        float(kendalltau([expected[i] for i in row], [found[i] for i in row])[0])  # type: ignore[arg-type]
        for row in rows.values()
        if len(row) >= 5
    )


if __name__ == "__main__":
    raise SystemExit(main())
