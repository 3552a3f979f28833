"""A question's way through the chain as a trace: a tree of timed steps with what went in and what came out.

    trace(episode, {"rewriter": 0.2, "retriever": 0.01}, system="mappo")

MLflow shows it in its trace view (`tracking.Pipeline.log_traces`), one step below the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jointrag.agents import AGENTS
from jointrag.metrics import METRICS
from jointrag.types import Episode, Turn


@dataclass(frozen=True, slots=True)
class Step:
    """One agent's turn, or the retrieval."""

    name: str
    kind: str
    """How the view draws it: AGENT, RETRIEVER."""
    inputs: dict[str, Any]
    outputs: Any
    seconds: float


@dataclass(frozen=True, slots=True)
class Trace:
    """All steps of one question, in order."""

    name: str
    steps: tuple[Step, ...]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    tags: dict[str, str]

    def send(self, client: Any, experiment_id: str, run_id: str) -> None:
        """Hand it to an MLflow client, as if it had just ended."""
        total_ns = int(1e9 * sum(step.seconds for step in self.steps))
        now_ns = time.time_ns() - total_ns
        root = client.start_trace(
            self.name,
            span_type="CHAIN",
            inputs=self.inputs,
            tags=self.tags,
            experiment_id=experiment_id,
            start_time_ns=now_ns,
            run_id=run_id,
        )
        for step in self.steps:
            span = client.start_span(
                step.name, root.trace_id, root.span_id, step.kind, inputs=step.inputs, start_time_ns=now_ns
            )
            now_ns += int(1e9 * step.seconds)
            client.end_span(root.trace_id, span.span_id, outputs=step.outputs, end_time_ns=now_ns)
        client.end_trace(root.trace_id, outputs=self.outputs, end_time_ns=now_ns)


def trace(episode: Episode, seconds: Mapping[str, float], system: str) -> Trace:
    """The trace of a finished episode. `seconds`: by agent and "retriever", 0 where not known."""
    question = episode.question
    scores = {name: metric(episode.answer, question.answers) for name, metric in METRICS.items()}
    return Trace(
        name=system,
        steps=tuple(_steps(episode, seconds)),
        inputs={"question": question.text},
        outputs={"answer": episode.answer, "gold answers": list(question.answers), **scores},
        tags={
            "jointrag.system": system,
            "jointrag.question": question.id,
            "jointrag.type": question.type,
            **{f"jointrag.{name}": f"{score:.3f}" for name, score in scores.items()},
        },
    )


def _steps(episode: Episode, seconds: Mapping[str, float]) -> Iterator[Step]:
    """The turns, and the retrieval before the first agent that reads passages."""
    retrieved = not episode.candidates
    for turn in episode.turns:
        if AGENTS[turn.agent].reads_passages and not retrieved:
            yield _retrieval(episode, seconds.get("retriever", 0.0))
            retrieved = True
        outputs: dict[str, Any] = {"response": turn.response, **_understood(episode, turn)}
        if turn.penalty:
            outputs["penalty"] = turn.penalty
        yield Step(turn.agent, "AGENT", {"prompt": turn.prompt}, outputs, seconds.get(turn.agent, 0.0))


def _retrieval(episode: Episode, seconds: float) -> Step:
    gold, read = set(episode.question.gold_passages), set(episode.chosen)
    found = [
        {
            "id": passage.id,
            "page_content": passage.contents,
            "metadata": {"document": i, "gold": passage.id in gold, "read": passage in read},
        }
        for i, passage in enumerate(episode.candidates)
    ]
    return Step("retriever", "RETRIEVER", {"questions": list(episode.sub_questions)}, found, seconds)


def _understood(episode: Episode, turn: Turn) -> dict[str, Any]:
    """What the chain made of a response, where it shows in the episode."""
    match turn.agent:
        case "rewriter":
            return {"sub-questions": list(episode.sub_questions)}
        case "selector":
            return {"read": [passage.contents for passage in episode.chosen]}
        case _:
            return {}
