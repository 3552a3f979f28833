"""The critic: what reward to expect before each token of a response. Only `advantage: gae` has one.

Four kinds, by two settings. It is a linear head on the policy's trunk, or a model of its own that starts as the warm
start; and it sees the turn that is being written, or the whole episode so far, the question first (centralised critic,
as in MAPPO: Yu et al., 2022). A head on the trunk with the local view rides along: its values fall out of the policy's
own forward passes. The other kinds read the turns in passes of their own.

With adapters, a critic of its own is one more adapter over the same base: no second copy of the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from jointrag.adapters import adapters_off
from jointrag.config import CriticConfig
from jointrag.generation import LocalLM, batches_by_length, decoder_and_head
from jointrag.types import Turn
from trainers.mappo.sharding import full_weights, through

ADAPTER = "critic"


class ValueHead(nn.Module):
    """Hidden states [..., hidden] to values [...]; starts at 0 everywhere."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.linear(hidden.float()).squeeze(-1)


@dataclass(frozen=True)
class View:
    """What the critic reads of one turn: `ids`, which end with its `num_values` response tokens. A value is asked for
    at the position before each of these."""

    ids: tuple[int, ...]
    num_values: int


class Critic(nn.Module):
    """`rides_along`: the policy's forward pass gives the values, through `head` on hidden states without gradient."""

    def __init__(self, lm: LocalLM, config: CriticConfig) -> None:
        super().__init__()
        model: Any = lm.model
        self._lm = [lm]  # in a list, so that its weights do not count as the critic's
        self.config = config
        self.rides_along = config.model == "trunk" and config.view == "local"
        self.head = ValueHead(model.config.hidden_size).to(model.device)
        self.own: nn.Module | None = None
        self._has_adapter = config.model == "separate" and bool(getattr(model, "peft_config", None))
        if self._has_adapter:
            model.add_adapter(ADAPTER, copy.copy(next(iter(model.peft_config.values()))))
            model.set_requires_grad(ADAPTER)
        elif config.model == "separate":
            self.own = copy.deepcopy(decoder_and_head(model)[0]).requires_grad_(True)

    def trained(self) -> list[nn.Parameter]:
        """What the value loss trains."""
        model: Any = self._lm[0].model
        adapter = [p for n, p in model.named_parameters() if f".{ADAPTER}." in n] if self._has_adapter else []
        return [*self.parameters(), *adapter]

    def views(self, turns: Sequence[Turn], before: Sequence[Sequence[Turn]]) -> list[View]:
        """One per turn. `before`: the turns of the same episode that came earlier. The latest tokens are what counts
        where all would be more than the model can read."""
        found = []
        for turn, earlier in zip(turns, before, strict=True):
            told = earlier if self.config.view == "central" else ()
            context = [token for past in told for token in (*past.prompt_ids, *past.response_ids)]
            ids = (*context, *turn.prompt_ids, *turn.response_ids)[-self._lm[0].max_length :]
            found.append(View(ids, len(turn.response_ids)))
        return found

    def forward(self, views: Sequence[View]) -> torch.Tensor:
        """Values [response tokens] of all views, one after the other."""
        device = self.head.linear.weight.device
        width = max(len(view.ids) for view in views)
        ids = torch.tensor([[*view.ids, *[self._lm[0].end] * (width - len(view.ids))] for view in views], device=device)
        rows = [i for i, view in enumerate(views) for _ in range(view.num_values)]
        places = [len(view.ids) - view.num_values - 1 + j for view in views for j in range(view.num_values)]
        with self._reading() as decoder:
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[rows, places]
        return self.head(hidden)

    @torch.no_grad()
    def values(
        self, turns: Sequence[Turn], before: Sequence[Sequence[Turn]], tokens_per_forward: int
    ) -> list[torch.Tensor]:
        """The present estimates, one tensor [response tokens] per turn, on the CPU."""
        views = self.views(turns, before)
        values: list[torch.Tensor] = [torch.empty(0)] * len(views)
        with full_weights(self._lm[0].model if self.own is None else self.own):
            for part in batches_by_length([len(view.ids) for view in views], tokens_per_forward):
                found = self([views[i] for i in part]).cpu()
                for i, piece in zip(part, found.split([views[i].num_values for i in part]), strict=True):
                    values[i] = piece
        return values

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """The trunk to read with: its own, its adapter on the shared base, or the policy's without its adapters."""
        lm = self._lm[0]
        if self.own is not None:
            yield self.own
        elif self._has_adapter:
            lm.play(ADAPTER)
            yield partial(through, lm.model, decoder_and_head(lm.model)[0])
        else:
            with torch.no_grad(), full_weights(lm.model), adapters_off(lm.model):
                yield decoder_and_head(lm.model)[0]
