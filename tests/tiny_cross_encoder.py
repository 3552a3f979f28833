"""A cross-encoder of random weights for tests of what stands around a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.word_rankers import tiny_bert


def tiny_cross_encoder(folder: Path, *, seed: int = 0, spread: float = 20.0) -> Path:
    """A BERT with one logit that knows tests.word_rankers.WORDS and reads 64 tokens. `spread` makes scores differ."""
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer, BertForSequenceClassification

    tiny_bert(folder, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=1)
    with torch.no_grad():
        model.classifier.weight.mul_(spread)
    model.save_pretrained(folder)
    return folder


def plain_scores(folder: Path, pairs: Sequence[tuple[str, str]], max_length: int = 64) -> list[float]:
    """Each pair by itself, as transformers' own tokenizer and model have it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [
            model(
                **tokenizer(query, text, return_tensors="pt", truncation="only_second", max_length=max_length)
            ).logits.item()
            for query, text in pairs
        ]
