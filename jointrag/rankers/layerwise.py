"""Decoders that can answer at more than one of their layers: bge-reranker-v2-minicpm-layerwise.

    Layerwise("BAAI/bge-reranker-v2-minicpm-layerwise", Loading(trust_remote_code=True), cutoff_layers=28)

Their code comes with the weights, so it has to be allowed. Fewer layers are faster, and some are better than the last.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from jointrag.rankers.base import Ranker
from jointrag.rankers.decoder import Decoder, positions
from jointrag.rankers.loading import Loading
from jointrag.rankers.local import Read

Layers = int | Sequence[int] | None


class Layerwise(Decoder):
    """The score is what the head at `cutoff_layers` gives at the last token."""

    def __init__(
        self,
        name: str,
        loading: Loading,
        *,
        cutoff_layers: Layers = None,
        prompt: str = "bge",
        instruction: str | None = None,
    ) -> None:
        """`cutoff_layers`: a layer, or a list of one, from the model's start_layer to its last, which is used where
        none is given. Raises ValueError for a layer without a head."""
        super().__init__(name, loading, prompt=prompt, instruction=instruction)
        self.layer = self._layer(cutoff_layers)

    def with_settings(self, **settings: Any) -> Ranker:
        """`instruction`, `cutoff_layers`."""
        given = dict(settings)
        layers = given.pop("cutoff_layers", self.layer)
        other = super().with_settings(**given) if given else copy.copy(self)
        assert isinstance(other, Layerwise)
        other.layer = self._layer(layers)
        return other

    def forward(self, batch: Sequence[Read]) -> torch.Tensor:
        input_ids, attention_mask, _ = self.tensors(batch)
        (scores,) = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions(attention_mask),
            use_cache=False,
            cutoff_layers=[self.layer],
            return_dict=True,
        ).logits
        return scores.reshape(len(input_ids), -1)[:, -1].float()

    def _layer(self, wanted: Layers) -> int:
        config = self.model.config
        first, last = getattr(config, "start_layer", 1), config.num_hidden_layers
        layers = [wanted] if isinstance(wanted, int) else list(wanted or [last])
        if len(layers) != 1 or not first <= layers[0] <= last:
            raise ValueError(f"cutoff_layers={wanted!r}: one layer, from {first} to {last}")
        return layers[0]
