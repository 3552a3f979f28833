"""Stages 5 and 6 and the control: what the agents learn from labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from jointrag.config.base import Section, Share


class AgentDataConfig(Section):
    """Stage 5: warm-start examples for every agent of the chain, and the question set for MAPPO."""

    num_warm_start_questions: PositiveInt = 6_000
    """Source questions turned into one example per agent."""
    num_reading_examples: Annotated[int, Field(ge=0)] = 0
    """Extra (passages, question) → answer examples, for models that have to learn to read first."""
    num_control_questions: Annotated[int, Field(ge=0)] = 0
    """Target questions turned into supervised examples for the control."""


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
