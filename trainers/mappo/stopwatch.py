"""Where a step's time and memory go."""

from __future__ import annotations

import resource
import sys
import time

import torch

from jointrag.generation import LocalLM, TokenCount
from jointrag.likelihood import num_tokens
from jointrag.retrieval import TimedRetriever
from trainers.mappo.rollouts import Rollout
from trainers.mappo.update import Outcome


class Stopwatch:
    """Seconds per phase of one step: `lap(name)` ends a phase."""

    def __init__(self, lm: LocalLM, retriever: TimedRetriever) -> None:
        self._laps: dict[str, float] = {}
        self._lm, self._retriever = lm, retriever
        self._retrieved_s = retriever.seconds
        lm.count = TokenCount()
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self._laps[name], self._since = now - self._since, now

    @property
    def total_s(self) -> float:
        return sum(self._laps.values())

    def metrics(self, rollout: Rollout, outcome: Outcome, num_processes: int) -> dict[str, float]:
        """time/*: seconds per phase (the rollout's without retrieval), tokens and episodes per second, the share of
        padding in what went through the model, memory; rollout/cut_prompts: those that were too long. Tokens are this
        process's, times the number of processes."""
        retrieval_s = self._retriever.seconds - self._retrieved_s
        seconds = self._laps | {"rollout": self._laps["rollout"] - retrieval_s, "retrieval": retrieval_s}
        read = sum(map(num_tokens, rollout.turns))
        written = float(rollout.mask.sum())
        return {
            **{f"time/{phase}_s": value for phase, value in seconds.items()},
            "time/step_s": self.total_s,
            "time/episodes_per_s": len(rollout.episodes) / self.total_s,
            "time/rollout_tokens_per_s": written / seconds["rollout"],
            "time/reference_tokens_per_s": read / seconds["reference"],
            "time/update_tokens_per_s": num_processes * outcome.tokens / seconds["update"],
            "time/rollout_padding": 1 - self._lm.count.real / max(1, self._lm.count.padded),
            "time/update_padding": 1 - outcome.tokens / max(1, outcome.padded_tokens),
            "rollout/cut_prompts": float(self._lm.count.cut),
            "time/peak_memory_mb": peak_memory_mb(self._lm.model.device),
        }


def peak_memory_mb(device: torch.device) -> float:
    """The most memory held so far: on a GPU what torch allocated there, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes on macOS, KiB on Linux
