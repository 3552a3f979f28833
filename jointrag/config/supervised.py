"""Stages 5 and 6 and the control: what the agents learn from labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from jointrag.config.base import AgentName, Section, Share
from jointrag.config.language_model import ServedConfig


class AnswerContexts(Section):
    """What the answering agent's examples give it to read, in proportion."""

    selected: NonNegativeFloat = 0.6
    """What the selector chose: noisy, as in use. Where no passage holds the answer there is no example."""
    gold: NonNegativeFloat = 0.3
    """The gold passages alone; where a question has none, what was selected."""
    nothing: NonNegativeFloat = 0.1
    """No passage: it answers from what it knows."""

    @model_validator(mode="after")
    def _some(self) -> AnswerContexts:
        if self.selected + self.gold + self.nothing == 0:
            raise ValueError("answer_contexts are all 0; one of selected, gold and nothing has to be more")
        return self


class AgentDataConfig(Section):
    """Stage 5: warm-start examples for every agent of the chain, and the question set for MAPPO."""

    num_warm_start_questions: PositiveInt = 6_000
    """Source questions turned into one example per agent."""
    num_reading_examples: Annotated[int, Field(ge=0)] = 0
    """Extra (passages, question) → answer examples, for models that have to learn to read first."""
    num_control_questions: Annotated[int, Field(ge=0)] = 0
    """Target questions turned into supervised examples for the control."""
    label_sources: dict[AgentName, tuple[str, ...]] = Field(default_factory=dict)
    """By agent, where its labels come from, the most trusted first; an agent that is not here has its own order.
    rewriter: decomposition, identity; selector: gold, lexical; generator: answer; for each of them teacher as well."""
    teacher: ServedConfig | None = None
    """The model that "teacher" stands for."""
    answer_contexts: AnswerContexts = AnswerContexts()
    shuffle_candidates: bool = True
    """False: the selector's examples show the candidates in the retriever's order, as in use."""
    exports: tuple[Literal["trl", "alpaca"], ...] = ("trl",)
    """Formats in which the examples are written besides, for other trainers (trainers/exports.py)."""
    tokenizer: str | None = None
    """Whose tokens the data card counts, a Hugging Face name or a folder; null: words and marks."""

    @model_validator(mode="after")
    def _teacher_is_known(self) -> AgentDataConfig:
        asks = [agent for agent, sources in self.label_sources.items() if "teacher" in sources]
        if asks and self.teacher is None:
            raise ValueError(f"label_sources.{asks[0]} names the teacher; set teacher.base_url and teacher.name")
        return self


class WarmStartConfig(Section):
    """Stage 6: one supervised pass over all agents' examples with trl's SFTTrainer."""

    num_epochs: PositiveFloat = 1.0
    reading_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Before that: epochs over the reading examples (models from scratch)."""
    reading_learning_rate: PositiveFloat = 2e-3
    prompt_loss_weight: Share = 0.0
    """What a prompt token counts in the loss; a response token counts 1. Helps a model from scratch learn to copy."""
    batch_size: PositiveInt = 32
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    warmup_ratio: Share = 0.03
    gradient_checkpointing: bool = False


class ControlConfig(Section):
    """Beside MAPPO: the same time of further supervised training on the target domain."""

    enabled: bool = False
    learning_rate: PositiveFloat = 1e-4
    prompt_loss_weight: Share = 0.0
    """As in the warm start; give both the same, or the comparison is not fair."""
    batch_size: PositiveInt = 32
