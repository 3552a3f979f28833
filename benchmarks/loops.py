"""The two sides of benchmarks/mappo_step.py, a step at a time: ours as `trainers.mappo.loop.run` does it, and what both
report."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jointrag.agents import Chain
from jointrag.config import MappoConfig
from jointrag.generation import Completion, LocalLM, Sampling
from jointrag.retrieval import Retriever
from jointrag.types import Prompt, Question


@dataclass(frozen=True)
class Step:
    """What one step took, in seconds, and `lengths`: prompt and response tokens of every turn."""

    num_episodes: int
    seconds: float
    rollout_s: float
    reference_s: float  # theirs: log-probabilities of policy and reference
    update_s: float
    lengths: tuple[tuple[int, int], ...]

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
    """`trainers.mappo.loop.run`, one step a call. Seconds are those that the loop itself notes in history.jsonl."""

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
        self.config = config.model_copy(update={"num_steps": 1, "dev_every": 0, "samples_every": 0})
        self.chain, self.questions, self.retriever = chain, list(questions), retriever
        self.seed = seed

    def step(self) -> Step:
        from trainers.mappo.loop import run

        self.lm.lengths.clear()
        self.seed += 1
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            run(self.config, self.chain, self.policy, self.questions, [], self.retriever, seed=self.seed, out=out)
            row = json.loads((out / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        count = self.config.questions_per_step * self.config.rollouts_per_question
        return Step(
            count,
            count / row["time/episodes_per_s"],
            row["time/rollout_s"],
            row["time/reference_s"],
            row["time/update_s"],
            tuple(self.lm.lengths),
        )


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
            "response_tokens": self.median(lambda step: step.response_tokens),
            "tokens": self.median(lambda step: sum(map(sum, step.lengths))),
        }
        return {name: round(value, 3) for name, value in found.items()}


def interleaved(ours: Loop, theirs: Loop, rounds: int) -> tuple[Timing, Timing]:
    """A warm-up step each, which is not counted, then `rounds` steps each in turn."""
    ours.step()
    theirs.step()
    steps = [(ours.step(), theirs.step()) for _ in range(rounds)]
    return Timing(tuple(mine for mine, _ in steps)), Timing(tuple(other for _, other in steps))
