"""The policy: one language model that plays every agent, its reference and its critic.

`evaluate` gives the log-probabilities of exactly the distribution that rollouts sample from: the agent's temperature,
the selector's restriction, the tokens that top-p or top-k had left. Logits are computed at response positions only.

The reference (the warm start) is the same model with its adapters switched off, or, in full fine-tuning, a frozen copy.
Agents share one adapter, or each has its own. Dropout is off throughout, or the policy trained would not be the policy
sampled. Models may be sharded over the processes (trainers.mappo.sharding).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jointrag.adapters import adapters_off
from jointrag.config import MappoConfig
from jointrag.generation import LocalLM, Sampling, batches_by_length, decoder_and_head
from jointrag.likelihood import LOGITS_AT_ONCE, MOST_PADDING, hidden_before, num_tokens
from jointrag.types import Turn
from trainers.mappo.critic import Critic
from trainers.mappo.sharding import full_weights, shard, through


@dataclass(frozen=True)
class Evaluation:
    """Per response token, row after row: log-probability, entropy and value, each [tokens]."""

    logprobs: torch.Tensor
    entropies: torch.Tensor
    values: torch.Tensor | None


class Policy:
    """The shared model of all agents with its critic. `lm` is what rollouts decode with: the very same weights.
    `sharded`: all models are split over the processes; decode within `full_weights(policy.model)`."""

    def __init__(self, lm: LocalLM, config: MappoConfig, sharded: bool = False) -> None:
        self.lm = lm
        self.config = config
        self.model: Any = lm.model.eval()
        self.adapters = tuple(getattr(self.model, "peft_config", ()))
        trained = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self._reference = self.model if self.adapters else copy.deepcopy(self.model).requires_grad_(False)
        self.critic = Critic(lm, config.critic) if config.advantage == "gae" else None
        lm.value_head = self.critic.head if self.critic and self.critic.rides_along else None
        if config.gradient_checkpointing:
            self._recompute()
        if sharded:
            for model in self._models():
                shard(model)
        self._trained = [self.model.get_parameter(name) for name in trained]

    def parameters(self) -> list[nn.Parameter]:
        """What the policy loss trains: the adapters, or every weight."""
        return self._trained

    def sampling(self, generator: torch.Generator | None = None) -> Sampling:
        """How each agent's tokens are drawn."""
        of = {name: Sampling(generator=generator, **vars(how)) for name, how in self.config.sampling_of.items()}
        return Sampling(generator=generator, per_agent=of, **vars(self.config.sampling))

    def batches(self, turns: Sequence[Turn]) -> list[list[int]]:
        """Indices of turns that fit in one forward pass, similar lengths together; each of one agent where agents have
        adapters of their own."""
        apart = sorted({turn.agent for turn in turns}) if len(self.adapters) > 1 else [None]
        batches = []
        for agent in apart:
            chosen = [i for i, turn in enumerate(turns) if agent in (None, turn.agent)]
            parts = batches_by_length(
                [num_tokens(turns[i]) for i in chosen], self.config.tokens_per_forward, MOST_PADDING
            )
            batches += [[chosen[i] for i in part] for part in parts]
        return batches

    def evaluate(self, turns: Sequence[Turn]) -> Evaluation:
        """The current policy (and a critic that rides along) on these turns, in one forward pass."""
        if self.adapters:
            self.lm.play(turns[0].agent)  # all of one agent, where each has its own adapter: see `batches`
        return through(self.model, self._evaluate, self.model, turns)

    @torch.no_grad()
    def reference_logprobs(self, turns: Sequence[Turn]) -> list[torch.Tensor]:
        """The warm start's log-probabilities, one tensor [response tokens] per turn, on the CPU."""
        logprobs: list[torch.Tensor] = [torch.empty(0)] * len(turns)
        with full_weights(self._reference), adapters_off(self._reference):
            for batch in self.batches(turns):
                found = self._evaluate(self._reference, [turns[i] for i in batch]).logprobs.cpu()
                pieces = found.split([len(turns[i].response_ids) for i in batch])
                for i, piece in zip(batch, pieces, strict=True):
                    logprobs[i] = piece
        return logprobs

    def values(self, turns: Sequence[Turn], earlier: Sequence[Sequence[Turn]]) -> list[torch.Tensor]:
        """What the critic expects, one tensor [response tokens] per turn; none without a critic. One that rides along
        said so while the turns were written."""
        if self.critic is None:
            return []
        if self.critic.rides_along:
            return [torch.tensor(turn.values) for turn in turns]
        return self.critic.values(turns, earlier, self.config.tokens_per_forward)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained, the critic with it: what a checkpoint holds."""
        trained = {id(p) for p in [*self._trained, *(self.critic.trained() if self.critic else [])]}
        named = {f"model.{name}": p for name, p in self.model.named_parameters() if id(p) in trained}
        return named | {f"critic.{name}": p for name, p in self.critic.named_parameters()} if self.critic else named

    def _models(self) -> list[Any]:
        """Policy, reference and critic, where these are models of their own."""
        copies = [] if self._reference is self.model else [self._reference]
        own = [self.critic.own] if self.critic and self.critic.own is not None else []
        return [self.model, *copies, *own]

    def _evaluate(self, model: Any, turns: Sequence[Turn]) -> Evaluation:
        decoder, head = decoder_and_head(model)
        hidden = hidden_before(decoder, turns, self.lm.end, model.device)
        logprobs, entropies = self._score(head, hidden, turns)
        critic = self.critic if self.critic and self.critic.rides_along else None
        return Evaluation(logprobs, entropies, critic.head(hidden.detach()) if critic else None)

    def _score(self, head: nn.Module, hidden: torch.Tensor, turns: Sequence[Turn]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies [tokens] from hidden states [tokens, hidden]."""
        device = hidden.device
        tokens = torch.tensor([token for turn in turns for token in turn.response_ids], device=device)
        sampling = self.sampling()
        temperature = torch.tensor([sampling.of(t.agent).temperature for t in turns for _ in t.response_ids])
        allowed = [ids for turn in turns for ids in self._allowed(turn)]
        with_entropy_gradient = self.config.entropy_coefficient > 0
        size = max(1, LOGITS_AT_ONCE // head.weight.shape[0])  # type: ignore[union-attr]
        pieces = []
        for start in range(0, len(tokens), size):
            here = slice(start, start + size)
            arguments = (head, hidden[here], tokens[here], temperature[here, None].to(device), allowed[here])
            if len(tokens) > size and torch.is_grad_enabled():
                pieces.append(checkpoint(_logprobs, *arguments, with_entropy_gradient, use_reentrant=False))
            else:
                pieces.append(_logprobs(*arguments, with_entropy_gradient))
        logprobs, entropies = zip(*pieces, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)

    def _allowed(self, turn: Turn) -> list[Sequence[int] | None]:
        """Per response token the ids it was drawn from; None: the whole vocabulary."""
        if turn.support:
            return list(turn.support)
        if turn.choices is None:
            return [None] * len(turn.response_ids)
        choices = self.lm.choice_list(turn.choices)
        return [choices.allowed(turn.response_ids[:j]) for j in range(len(turn.response_ids))]

    def _recompute(self) -> None:
        """Activations are computed again in the backward pass. transformers does so in training mode only, so dropout,
        the other thing that mode means, is set to 0."""
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                setattr(module, "attention_dropout", 0.0)  # noqa: B010 (a plain number, which nn.Module does not know)
        self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.enable_input_require_grads()
        self.model.train()


def _logprobs(
    head: nn.Module,
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    temperature: torch.Tensor,
    allowed: Sequence[Sequence[int] | None],
    with_entropy_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = head(hidden).float() / temperature
    limited = [i for i, ids in enumerate(allowed) if ids is not None]
    if limited:
        keep = torch.tensor([i for i in limited for _ in allowed[i] or ()], device=hidden.device)
        ids = torch.tensor([id for i in limited for id in allowed[i] or ()], device=hidden.device)
        forbidden = torch.zeros_like(logits, dtype=torch.bool)
        forbidden[limited] = True
        forbidden[keep, ids] = False
        logits = logits.masked_fill(forbidden, float("-inf"))
    logprobs = torch.log_softmax(logits, dim=-1)
    spread = logprobs if with_entropy_gradient else logprobs.detach()
    # a forbidden token has probability 0 and adds nothing; its -inf must not meet the 0
    entropies = -(spread.exp() * spread.masked_fill(spread.isneginf(), 0.0)).sum(-1)
    return logprobs.gather(1, tokens[:, None])[:, 0], entropies
