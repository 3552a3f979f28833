"""The language model that plays every agent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from jointrag.config.base import Section, Share, check_heads


class ScratchLM(Section):
    """A small Llama with a word-level vocabulary, trained from random weights."""

    type: Literal["scratch"] = "scratch"
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 3
    num_heads: PositiveInt = 4
    intermediate_size: PositiveInt = 256
    max_length: PositiveInt = 512

    @model_validator(mode="after")
    def _heads_fit(self) -> ScratchLM:
        check_heads(self.hidden_size, self.num_heads)
        return self


class Lora(Section):
    """Low-rank adapters on all linear layers (peft)."""

    r: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    per_agent: bool = False
    """True: in joint training every agent has an adapter of its own. False: one for all. The warm start trains one."""


class PretrainedLM(Section):
    """A Hugging Face name or folder. A chat template is used where the tokenizer has one."""

    type: Literal["pretrained"] = "pretrained"
    name: str
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    lora: Lora | None = Lora()
    max_length: PositiveInt = 4096


class ServedConfig(Section):
    """A model behind an OpenAI-compatible server. It answers questions, it cannot be trained."""

    base_url: str
    """Up to /v1, e.g. http://127.0.0.1:8000/v1."""
    name: str
    """What the server calls the model."""
    api_key_variable: str | None = None
    """The environment variable that holds the API key; null: the server needs none."""
    num_parallel: PositiveInt = 16
    """Requests under way at a time."""
    timeout_s: PositiveFloat = 120.0
    """How long one request may take; it is tried again a few times."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, base_url: str) -> str:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={base_url!r} is no address such as http://127.0.0.1:8000/v1")
        return base_url


LanguageModelSection = Annotated[ScratchLM | PretrainedLM, Field(discriminator="type")]
