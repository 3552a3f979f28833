"""Cross-encoders: a classifier with one logit for a pair, or two of which the second is for yes.

    CrossEncoder("BAAI/bge-reranker-v2-m3", Loading())
    CrossEncoder("maidalun1020/bce-reranker-base_v1", Loading(), sigmoid=True)   # its scores are 0 to 1

Folders of sentence-transformers are read as their CrossEncoder reads them: with the prompt and the length saved there.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch

from jointrag.rankers.loading import Loading, is_saved_reranker, length, load_model, load_tokenizer
from jointrag.rankers.local import LocalRanker, Read
from jointrag.rankers.prompts import asking, saved_writing
from jointrag.rankers.writing import Template, backend_of


class CrossEncoder(LocalRanker):
    """Any model of AutoModelForSequenceClassification. The score is its logit; of two, their difference."""

    def __init__(
        self,
        name: str,
        loading: Loading,
        *,
        sigmoid: bool = False,
        prompt: str | None = None,
        instruction: str | None = None,
    ) -> None:
        """`sigmoid`: scores are between 0 and 1. `prompt`, `instruction`: for a classifier made of a decoder that is
        asked in one of the ways of jointrag.rankers.prompts. Raises ValueError for what is no such model."""
        from transformers import AutoModelForSequenceClassification

        tokenizer = load_tokenizer(name, loading)
        if prompt is not None:
            writing = asking(name, tokenizer, prompt, instruction).writing
        elif is_saved_reranker(name):
            writing = saved_writing(name, tokenizer, instruction)
        else:
            writing = Template.of(tokenizer)
        model = load_model(AutoModelForSequenceClassification, name, loading)
        if model.config.num_labels > 2:
            raise ValueError(f"{name}: its {model.config.num_labels} labels are no ranking; a reranker has one or two")
        super().__init__(
            model,
            tokenizer,
            writing,
            max_length=length(model, tokenizer, name, loading, usual=512),
            tokens_per_forward=loading.tokens_per_forward,
        )
        text_config = model.config.get_text_config()
        if text_config.pad_token_id is None:  # classifiers of decoders need it to find the last token
            text_config.pad_token_id = tokenizer.pad_token_id
        if text_config.pad_token_id is None:
            self.tokens_per_forward = 1  # one pair at a time: nothing is padded
        self._sigmoid = sigmoid
        self._has_types = _has_types(name, model, tokenizer)

    def forward(self, batch: Sequence[Read]) -> torch.Tensor:
        input_ids, attention_mask, num_first = self.tensors(batch)
        given = {}
        if self._has_types:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            given["token_type_ids"] = (places >= num_first[:, None]).long() * attention_mask
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask, **given).logits.float()
        scores = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        return scores.sigmoid() if self._sigmoid else scores

    def normalize(self, score: float) -> float:
        return score if self._sigmoid else super().normalize(score)


def _has_types(name: str, model: object, tokenizer: object) -> bool:
    """Whether the model is told which of the two texts a token is of: by the tokenizer's own template for pairs, since
    some tokenizers hand out types that are all 0, to models that have but one."""
    takes = "token_type_ids" in inspect.signature(model.forward).parameters  # type: ignore[attr-defined]
    if not takes or "token_type_ids" not in tokenizer.model_input_names:  # type: ignore[attr-defined]
        return False
    probe = backend_of(tokenizer).encode("a", "b")
    second = probe.sequence_ids.index(1)
    if not any(probe.type_ids):
        return False
    if probe.type_ids != [0] * second + [1] * (len(probe.ids) - second):
        raise ValueError(f"{name}: its tokenizer gives tokens the types {probe.type_ids}, which is not known here")
    return True
