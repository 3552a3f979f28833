"""The two sides of benchmarks/mappo_step.py: ours, as `trainers.mappo.loop.run` does it, and what both report."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from jointrag.agents import Chain
from jointrag.config import MappoConfig
from jointrag.generation import Completion, LocalLM, Sampling
from jointrag.retrieval import Retriever
from jointrag.types import Prompt, Question


@dataclass(frozen=True)
class Step:
    """What one step took, in seconds, and `lengths`: prompt and response tokens of every turn (none are known of steps
    that several processes share)."""

    num_episodes: int
    seconds: float
    rollout_s: float
    reference_s: float  # theirs: log-probabilities of policy and reference
    update_s: float
    lengths: tuple[tuple[int, int], ...] = ()

    @property
    def response_tokens(self) -> int:
        return sum(response for _, response in self.lengths)


class Loop(Protocol):
    def step(self) -> Step: ...


class _CountingLM(LocalLM):
    """Notes the lengths of what it reads and writes."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lengths: list[tuple[int, int]] = []

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        completions = super().generate(prompts, max_new_tokens, sampling)
        self.lengths += [(len(c.prompt_ids), len(c.response_ids)) for c in completions]
        return completions


class OurLoop:
    """`trainers.mappo.loop.run`: one step a call, or a run of several. Seconds are those that the loop itself notes in
    history.jsonl."""

    def __init__(
        self,
        config: MappoConfig,
        chain: Chain,
        model: Any,
        tokenizer: Any,
        questions: Sequence[Question],
        retriever: Retriever,
        *,
        seed: int,
        max_length: int = 4096,
    ) -> None:
        from trainers.mappo.policy import Policy

        self.lm = _CountingLM(model, tokenizer, max_length, config.tokens_per_forward)
        self.policy = Policy(self.lm, config)
        self.config = config.model_copy(update={"dev_every": 0, "samples_every": 0})
        self.chain, self.questions, self.retriever = chain, list(questions), retriever
        self.seed = seed

    def step(self) -> Step:
        self.lm.lengths.clear()
        self.seed += 1
        with tempfile.TemporaryDirectory() as folder:
            self.run(1, Path(folder))
            (step,) = steps_of(Path(folder), self.config)
        return replace(step, lengths=tuple(self.lm.lengths))

    def run(self, num_steps: int, out: Path) -> None:
        """A run of `num_steps`, whose seconds are in `out`/history.jsonl. Under torchrun the processes share it."""
        from trainers.mappo.loop import run
        from trainers.parallel import Team

        config = self.config.model_copy(update={"num_steps": num_steps})
        team = Team.join(self.policy.model.device.type)
        run(config, self.chain, self.policy, self.questions, [], self.retriever, seed=self.seed, out=out, team=team)


def steps_of(out: Path, config: MappoConfig) -> list[Step]:
    """The steps of a run of ours."""
    count = config.questions_per_step * config.rollouts_per_question
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Step(count, row["time/step_s"], row["time/rollout_s"], row["time/reference_s"], row["time/update_s"])
        for row in rows
    ]


@dataclass(frozen=True)
class Timing:
    """Steps of one side, the warm-up left out."""

    steps: tuple[Step, ...]

    def median(self, of: Callable[[Step], float]) -> float:
        return statistics.median(of(step) for step in self.steps)

    @property
    def episodes_per_s(self) -> float:
        return self.median(lambda step: step.num_episodes / step.seconds)

    def detail(self) -> dict[str, float]:
        """Where the time went: medians, in seconds."""
        found = {
            "seconds": self.median(lambda step: step.seconds),
            "rollout_s": self.median(lambda step: step.rollout_s),
            "reference_s": self.median(lambda step: step.reference_s),
            "update_s": self.median(lambda step: step.update_s),
        }
        if all(step.lengths for step in self.steps):
            found["response_tokens"] = self.median(lambda step: step.response_tokens)
            found["tokens"] = self.median(lambda step: sum(map(sum, step.lengths)))
        return {name: round(value, 3) for name, value in found.items()}


def in_turn(measurements: Sequence[Callable[[], Sequence[Step]]], rounds: int) -> list[Timing]:
    """Every measurement `rounds` times, one after the other, so that a slow spell of the machine is shared by all.
    Warming up is their own business."""
    steps: list[list[Step]] = [[] for _ in measurements]
    for _ in range(rounds):
        for found, measure in zip(steps, measurements, strict=True):
            found += measure()
    return [Timing(tuple(found)) for found in steps]
