"""Tiny random models to start rerankers and late-interaction models from, and tasks that they can learn."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = [f"{a}{b}" for a in ("ba", "de", "ki", "lo", "mu", "na") for b in ("ra", "so", "te", "vi", "zu")]
MAX_LENGTH = 64


def same_words(num_queries: int, seed: int, *, num_negatives: int = 3) -> list[dict[str, Any]]:
    """Lines of a training file: the positive has the query's two words, a negative has one of them or none."""
    rng = random.Random(seed)
    lines = []
    for _ in range(num_queries):
        first, second, *others = rng.sample(WORDS, 12)

        def text(*words: str, others: Sequence[str] = others) -> str:
            chosen = [*words, *rng.sample(others, 4 - len(words))]
            return " ".join(rng.sample(chosen, len(chosen)))

        negatives = [text(rng.choice([first, second])) if i % 2 else text() for i in range(num_negatives)]
        lines.append({"query": f"{first} {second}", "pos": [text(first, second)], "neg": negatives})
    return lines


def same_group(num_queries: int, seed: int, *, num_negatives: int) -> list[dict[str, Any]]:
    """Lines of a training file. WORDS are of two kinds: a positive has words of the query's kind, negatives have not.

    Nothing but query and text together tells them apart, and a tiny model learns it in a hundred steps.
    """
    rng = random.Random(seed)
    kinds = WORDS[::2], WORDS[1::2]
    lines = []
    for _ in range(num_queries):
        own, other = rng.sample(kinds, 2)
        negatives = [" ".join(rng.sample(other, 3)) for _ in range(num_negatives)]
        lines.append({"query": " ".join(rng.sample(own, 2)), "pos": [" ".join(rng.sample(own, 3))], "neg": negatives})
    return lines


def write(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tiny_bert(folder: Path, *, seed: int = 0, hidden_size: int = 32) -> Path:
    """A BERT of random weights that knows WORDS."""
    import torch
    from transformers import BertConfig, BertModel

    from trainers.scratch import word_level_tokenizer

    torch.manual_seed(seed)
    tokenizer = word_level_tokenizer(WORDS, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], lowercase=True)
    tokenizer.model_max_length = MAX_LENGTH
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.0,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_decoder(folder: Path, kind: str = "qwen2", *, seed: int = 0, pad: bool = True) -> Path:
    """A causal language model of random weights with the tokenizer class that such models have, and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen2Tokenizer,
    )

    torch.manual_seed(seed)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    lines = [*WORDS, *(f" {word}" for word in WORDS), "query:", "document:", "relevant: yes", "relevant: no"] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    raw.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    )
    model = json.loads(raw.to_str())["model"]
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
    }
    padding = {"pad_token": "<pad>"} if pad else {}
    if kind == "qwen2":
        merges: Any = [tuple(merge) for merge in model["merges"]]
        tokenizer: Any = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, eos_token="</s>", **padding)
        language_model: Any = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape))
    else:  # Llama 3's is such a plain one, with a token at the beginning
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=raw, bos_token="<s>", eos_token="</s>", add_bos_token=True, **padding
        )
        language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    tokenizer.model_max_length = 128
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    language_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
