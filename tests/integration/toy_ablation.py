"""A pipeline of toy stages for the ablation flow: the number of MAPPO's steps says how many questions are right."""

from __future__ import annotations

import os
from pathlib import Path

from evaluation.costs import Usage
from evaluation.measures import measure
from evaluation.scores import Scores, SystemScores
from jointrag.artifacts import Artifact
from jointrag.config import EvaluationConfig, MappoConfig, SyntheticDataset
from jointrag.jsonl import write_jsonl
from jointrag.types import Episode, Question
from tasks.run import Run, Stage

NUM_QUESTIONS = 20
PREPARE = Stage("prepare", "tests.integration.toy_ablation:prepare", takes=frozenset({"seed"}), own_process=False)
EVALUATE = Stage("evaluate", "tests.integration.toy_ablation:evaluate", takes=frozenset({"seed"}), own_process=False)
REPORT = Stage("report", "tests.integration.toy_ablation:report", own_process=False)


def trained_and_evaluated(run: Run) -> tuple[Artifact, Artifact]:
    notes = {"notes": str(run.config.workspace)}
    prepared = run.build(PREPARE, {"config": run.config.dataset}, {}, values=notes)
    sections = {"config": run.config.evaluation, "mappo": run.config.mappo}
    evaluation = run.build(EVALUATE, sections, {"prepared": prepared}, values=notes)
    return evaluation, run.build(REPORT, {}, {"evaluation": evaluation})


def prepare(config: SyntheticDataset, *, notes: str, seed: int, out: Path) -> dict[str, float]:
    called(notes, f"prepare-{seed}")
    (out / "seed").write_text(str(seed))
    return {}


def evaluate(
    config: EvaluationConfig, mappo: MappoConfig, *, notes: str, prepared: Path, seed: int, out: Path
) -> dict[str, float]:
    called(notes, f"evaluate-{mappo.num_steps}-{seed}")
    if (Path(notes) / "fail").exists() and mappo.num_steps == 5:
        raise ValueError("the reward is not a number; lower mappo.learning_rate")
    systems = {}
    for name, num_right in (("warm_start", 4), ("mappo", mappo.num_steps + seed)):
        episodes = [
            Episode(Question(f"{seed}-{i}", "Where?", ("Oslo",)), answer="Oslo" if i < num_right else "Rome")
            for i in range(NUM_QUESTIONS)
        ]
        write_jsonl(out / "predictions" / f"{name}.jsonl", episodes)
        write_jsonl(out / "usage" / f"{name}.jsonl", [Usage(e.question.id, None, {}) for e in episodes])
        systems[name] = SystemScores(overall=measure(episodes), types={}, seconds=1.0)
    scores = Scores(num_questions=NUM_QUESTIONS, types={}, systems=systems, comparisons=())
    (out / "scores.json").write_text(scores.model_dump_json())
    return {"eval/mappo/f1": systems["mappo"].overall.f1}


def report(*, evaluation: Path, out: Path) -> dict[str, float]:
    for name in ("report.md", "report.html"):
        (out / name).write_text(f"{name} of {evaluation}\n")
    return {}


def called(notes: str, name: str) -> None:
    with (Path(notes) / "calls").open("a") as file:
        file.write(f"{name} {os.getpid()}\n")
