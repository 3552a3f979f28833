"""Decoders asked whether a text answers a query: the score is logit(yes) − logit(no) of the next token.

    Decoder("BAAI/bge-reranker-v2-gemma", Loading(), prompt="bge")
    Decoder("models/reranker/model", Loading())      # a folder of sentence-transformers says itself how it is asked
    Chat("Qwen/Qwen3-8B", Loading())                 # any model with a chat template, in words

How a pair is put to them is part of what they were trained on, so each family has its prompt (prompts.py).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from jointrag.rankers.base import Ranker
from jointrag.rankers.loading import Loading, length, load_model, load_tokenizer
from jointrag.rankers.local import LocalRanker, Read
from jointrag.rankers.prompts import Asking, asking


class Decoder(LocalRanker):
    """A causal language model with a prompt of PROMPTS, or as sentence-transformers saved it."""

    usual_length = 1024

    def __init__(
        self, name: str, loading: Loading, *, prompt: str | None = None, instruction: str | None = None
    ) -> None:
        """`prompt`: one of jointrag.rankers.prompts. `instruction`: what is asked, in place of the model's own words.

        Raises ValueError for a model that nothing says how to ask, or without the tokens that answer.
        """
        from transformers import AutoModelForCausalLM

        tokenizer = load_tokenizer(name, loading)
        self._name, self._prompt = name, prompt
        self.asking = asking(name, tokenizer, prompt, instruction)
        model = load_model(AutoModelForCausalLM, name, loading)
        super().__init__(
            model,
            tokenizer,
            self.asking.writing,
            max_length=length(model, tokenizer, name, loading, usual=self.usual_length),
            tokens_per_forward=loading.tokens_per_forward,
            left=True,
        )
        takes = inspect.signature(model.forward).parameters  # authors' own code may know less
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def with_settings(self, **settings: Any) -> Ranker:
        """`instruction`: another question, for the same model."""
        if set(settings) - {"instruction"}:
            return super().with_settings(**settings)  # raises
        other = copy.copy(self)
        other.ask(asking(self._name, self.tokenizer, self._prompt, settings["instruction"]))
        return other

    def ask(self, asked: Asking) -> None:
        self.asking, self.writing = asked, asked.writing

    def forward(self, batch: Sequence[Read]) -> torch.Tensor:
        input_ids, attention_mask, _ = self.tensors(batch)
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions(attention_mask),
            use_cache=False,
            **self._last_only,
        ).logits[:, -1].float()  # fmt: skip
        yes = logits[:, self.asking.yes]
        return yes if self.asking.no is None else yes - logits[:, self.asking.no]


class Chat(Decoder):
    """Any model with a chat template, asked in words; without thinking, where the template can switch it off."""

    usual_length = 2048

    def __init__(self, name: str, loading: Loading, *, instruction: str | None = None) -> None:
        super().__init__(name, loading, prompt="chat", instruction=instruction)


def positions(attention_mask: torch.Tensor) -> torch.Tensor:
    """Of tokens [batch, length] behind padding on the left."""
    return (attention_mask.cumsum(1) - 1).clamp(min=0)
