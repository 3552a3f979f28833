"""The policy: one language model that plays every agent, its critic and its reference.

`evaluate` gives the log-probabilities of exactly the distribution that rollouts sample from: same temperature, same
restriction of the selector's output. Logits are computed at response positions only.

The reference (the warm start) is the same model with its adapters switched off, or, in full fine-tuning, a frozen copy.
Dropout stays off throughout, or the policy trained would not be the policy sampled.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from jointrag.generation import LocalLM, batches_by_length, decoder_and_head
from jointrag.types import Turn


@dataclass(frozen=True)
class Evaluation:
    """Per response token, row after row: log-probability, entropy and value, each [tokens]."""

    logprobs: torch.Tensor
    entropies: torch.Tensor
    values: torch.Tensor


class ValueHead(nn.Module):
    """A linear critic on the trunk's hidden states. It sees them without gradient: it never moves the policy."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Values [...] of hidden states [..., hidden]."""
        return self.linear(hidden.detach().float()).squeeze(-1)


class Policy:
    """The shared model of all agents with its critic. `lm` is what rollouts decode with: the very same weights."""

    def __init__(self, lm: LocalLM, temperature: float, trains_entropy: bool = False) -> None:
        self.lm = lm
        self.temperature = temperature
        self.trains_entropy = trains_entropy  # otherwise entropies carry no gradient, which is cheaper
        self.model: Any = lm.model.eval()
        self.has_adapters = hasattr(self.model, "disable_adapter")
        self.value_head = ValueHead(self.model.config.hidden_size).to(self.model.device)
        lm.value_head = self.value_head
        self._frozen = None if self.has_adapters else copy.deepcopy(self.model).requires_grad_(False)

    def parameters(self) -> list[nn.Parameter]:
        """What the policy loss trains: the adapters, or every weight."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def evaluate(self, turns: Sequence[Turn]) -> Evaluation:
        """The current policy and critic on these turns, in one forward pass."""
        return self._evaluate(self.model, turns)

    @torch.no_grad()
    def reference_logprobs(self, turns: Sequence[Turn], tokens_per_forward: int) -> list[torch.Tensor]:
        """The warm start's log-probabilities, one tensor [response tokens] per turn."""
        logprobs: list[torch.Tensor] = [torch.empty(0)] * len(turns)
        with self.model.disable_adapter() if self.has_adapters else nullcontext():
            model = self.model if self._frozen is None else self._frozen
            for batch in batches_by_length([num_tokens(turn) for turn in turns], tokens_per_forward):
                found = self._evaluate(model, [turns[i] for i in batch]).logprobs.cpu()
                pieces = found.split([len(turns[i].response_ids) for i in batch])
                for i, piece in zip(batch, pieces, strict=True):
                    logprobs[i] = piece
        return logprobs

    def _evaluate(self, model: Any, turns: Sequence[Turn]) -> Evaluation:
        decoder, head = decoder_and_head(model)
        device = model.device
        width = max(num_tokens(turn) for turn in turns)
        pad = self.lm.tokenizer.eos_token_id
        # right padding needs no mask: in a causal model no response token can see it
        ids = torch.tensor(
            [[*t.prompt_ids, *t.response_ids, *[pad] * (width - num_tokens(t))] for t in turns], device=device
        )
        rows = torch.tensor([i for i, t in enumerate(turns) for _ in t.response_ids], device=device)
        # the token at position p is predicted at p - 1
        before = torch.tensor(
            [len(t.prompt_ids) - 1 + j for t in turns for j in range(len(t.response_ids))], device=device
        )
        tokens = torch.tensor([token for t in turns for token in t.response_ids], device=device)
        hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[rows, before]  # [tokens, hidden]
        logits = head(hidden).float() / self.temperature
        forbidden = self._forbidden(turns, logits.shape[1])
        if forbidden is not None:
            logits = logits.masked_fill(forbidden.to(device), float("-inf"))
        logprobs = torch.log_softmax(logits, dim=-1)
        spread = logprobs if self.trains_entropy else logprobs.detach()
        # a forbidden token has probability 0 and adds nothing; its -inf must not meet the 0
        entropies = -(spread.exp() * spread.masked_fill(spread.isneginf(), 0.0)).sum(-1)
        return Evaluation(logprobs.gather(1, tokens[:, None])[:, 0], entropies, self.value_head(hidden))

    def _forbidden(self, turns: Sequence[Turn], vocabulary: int) -> torch.Tensor | None:
        """[tokens, vocabulary]: True where a restricted response could not continue; None without restricted turns."""
        if all(turn.choices is None for turn in turns):
            return None
        forbidden = torch.zeros(sum(len(turn.response_ids) for turn in turns), vocabulary, dtype=torch.bool)
        row = 0
        for turn in turns:
            for j in range(len(turn.response_ids)):
                if turn.choices is not None:
                    forbidden[row] = True
                    forbidden[row, list(self.lm.choice_list(turn.choices).allowed(turn.response_ids[:j]))] = False
                row += 1
        return forbidden


def num_tokens(turn: Turn) -> int:
    """Prompt and response together."""
    return len(turn.prompt_ids) + len(turn.response_ids)
