"""Tiny random embedding models for tests: real sentence-transformers modules over real transformers classes."""

from __future__ import annotations

import random
from typing import Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedModel

from trainers.scratch import as_module, word_level_tokenizer

WORDS = tuple(
    f"{a}{b}" for a in ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi") for b in ("rn", "st", "x", "lt", "nd")
)


def sentences(count: int, seed: int, longest: int = 30) -> list[str]:
    """Random texts of 1 to `longest` words."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


def tiny_encoder(seed: int = 0, dropout: float = 0.0, hidden_size: int = 32) -> SentenceTransformer:
    """A BERT of two layers, mean pooling, unit vectors."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return _model(BertModel(config), "mean", "right")


def tiny_decoder(seed: int = 0, padding_side: Literal["left", "right"] = "right") -> SentenceTransformer:
    """A Llama of two layers, the last token's vector."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    return _model(LlamaModel(config), "lasttoken", padding_side)


def _model(backbone: PreTrainedModel, pooling: str, padding_side: str) -> SentenceTransformer:
    tokenizer = word_level_tokenizer(WORDS, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], lowercase=True)
    tokenizer.model_max_length, tokenizer.padding_side = 64, padding_side
    modules = [as_module(backbone, tokenizer), Pooling(backbone.config.hidden_size, pooling), Normalize()]  # type: ignore[attr-defined]
    return SentenceTransformer(modules=modules, device="cpu")
