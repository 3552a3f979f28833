"""What is evaluated, and against what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from jointrag.config.base import AgentName, Section
from jointrag.config.language_model import ServedConfig

SystemName = Annotated[str, Field(pattern=r"^\w[\w-]*$")]  # becomes a file name; dots part the names of settings


class JudgeConfig(ServedConfig):
    """A model behind an OpenAI-compatible server that says whether an answer is right (evaluation/judge.py)."""

    max_new_tokens: PositiveInt = 16
    """A model that thinks aloud before its verdict needs far more."""


class EvaluationConfig(Section):
    """Stage 8: greedy answers of every system on the same held-out questions."""

    num_questions: PositiveInt | None = None
    """None: the whole test split."""
    num_bootstrap: PositiveInt = 10_000
    """Resamples of the bootstrap, and of the approximate randomisation."""
    batch_size: PositiveInt = 128
    """Questions answered together, and lost together when the evaluation is killed."""
    served: dict[SystemName, ServedConfig] = Field(default_factory=dict)
    """Models behind a server that answer the same questions, by the name they get in the report."""
    baselines: tuple[Literal["no_retrieval", "plain_rag"], ...] = ("no_retrieval", "plain_rag")
    """no_retrieval: the chain's last agent answers without passages. plain_rag: it reads all that the question itself
    finds."""
    baseline_model: str | None = None
    """Which system's model answers for the baselines; null: warm_start where there is one, else the first."""
    subsets: tuple[tuple[AgentName, ...], ...] = ()
    """Chains with fewer agents, compared with the whole one: [[selector, generator], [rewriter, generator]]."""
    subsets_of: tuple[str, ...] = ()
    """Which systems' models speak in them; empty: mappo where there is one, else every checkpoint."""
    attribution: bool = True
    """Where the data names gold passages: answer once more with one agent's output after the other replaced by the gold
    one, to see where points are lost."""
    attribution_of: tuple[str, ...] = ()
    """Of which systems; empty: warm_start and mappo, else the first and the last checkpoint."""
    judge: JudgeConfig | None = None
    """An LLM that judges every answer as well; null: none."""
