"""Some questions' ways through every trained system, as traces: `sampled(evaluation, 10)` from an evaluation's files.

The same questions for all systems, picked at random, but the same ones for the same evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from evaluation.costs import Usage
from evaluation.scores import Scores
from jointrag.jsonl import read_jsonl
from jointrag.traces import Trace, trace
from jointrag.types import Episode


def sampled(evaluation: Path, num_questions: int) -> Iterator[Trace]:
    """Question by question, a trace for each trained system; read when the first is asked for."""
    scores = Scores.read(evaluation / "scores.json")
    chosen = sorted(random.Random(0).sample(range(scores.num_questions), min(num_questions, scores.num_questions)))
    found: list[list[Trace]] = []
    for name, system in scores.systems.items():
        if system.kind == "trained":
            episodes = list(read_jsonl(evaluation / "predictions" / f"{name}.jsonl", Episode))
            usages = list(read_jsonl(evaluation / "usage" / f"{name}.jsonl", Usage))
            found.append([trace(episodes[i], _seconds(usages[i]), name) for i in chosen])
    for of_question in zip(*found, strict=True):
        yield from of_question


def _seconds(usage: Usage) -> dict[str, float]:
    return {agent: one.seconds for agent, one in usage.agents.items()}
