"""Cross-encoders: a classifier with one logit for a pair, or two of which the second is for yes."""

from __future__ import annotations

import torch

from jointrag.rankers.loading import Loading, load_model, load_tokenizer, most_tokens
from jointrag.rankers.local import LocalRanker
from jointrag.rankers.writing import Template


class CrossEncoder(LocalRanker):
    """Any model of AutoModelForSequenceClassification. The score is its logit; of two, their difference."""

    def __init__(self, name: str, loading: Loading) -> None:
        from transformers import AutoModelForSequenceClassification

        model, tokenizer = load_model(AutoModelForSequenceClassification, name, loading), load_tokenizer(name, loading)
        if model.config.num_labels > 2:
            raise ValueError(f"{name}: its {model.config.num_labels} labels are no ranking; a reranker has one or two")
        super().__init__(
            model,
            tokenizer,
            Template.of(tokenizer),
            max_length=loading.max_length or min(512, most_tokens(model, tokenizer)),
            tokens_per_forward=loading.tokens_per_forward,
            left=tokenizer.padding_side == "left",
        )
        self._has_types = "token_type_ids" in tokenizer.model_input_names

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_first: torch.Tensor) -> torch.Tensor:
        given = {}
        if self._has_types:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            given["token_type_ids"] = (places >= num_first[:, None]).long() * attention_mask
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **given).logits
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
