"""Texts of made-up words, and a tokenizer and a model's settings to go with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerFast

from trainers.retrieval.batches import Key, Shown
from trainers.retrieval.groups import Group
from trainers.scratch import word_level_tokenizer

NUM_NEGATIVES = 7
_NUM_WORDS = 20_000
_SPECIAL = ("<cls>", "<pad>", "<sep>", "<unk>")  # padding is 1, as XLM-RoBERTa has it


class MadeUp:
    """Groups of a query, a positive and negatives, indexed as trainers.retrieval.groups.Groups is. Lengths are spread
    like those of passages, around 0.4 × `length` words."""

    def __init__(self, count: int, length: int) -> None:
        rng = np.random.default_rng(0)

        def text(num_words: int) -> str:
            return " ".join(f"w{i}" for i in rng.integers(_NUM_WORDS, size=num_words).tolist())

        def passage() -> str:
            return text(int(np.clip(rng.lognormal(np.log(0.4 * length), 0.7), 4, 2 * length)))

        self._groups = [
            Group(
                text(int(rng.integers(6, 20))),
                tuple(passage() for _ in range(1 + NUM_NEGATIVES)),
                (1.0, *[0.0] * NUM_NEGATIVES),
            )
            for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, key: Key) -> Group:
        return self._groups[key[1]]

    def shown(self, key: Key) -> Shown:
        """No text occurs twice."""
        first = key[1] * (1 + NUM_NEGATIVES)
        return Shown(key[1], set(range(first, first + 1 + NUM_NEGATIVES)), {first})

    def length(self, key: Key) -> int:
        return max(len(text) for text in self[key].texts)

    def texts(self) -> list[str]:
        return [text for group in self._groups for text in (group.query, *group.texts)]

    def pairs(self) -> list[tuple[str, str]]:
        return [(group.query, text) for group in self._groups for text in group.texts]


class Size(Protocol):
    """What the settings of a transformer are made from."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...


def tokenizer(texts: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """One token a word."""
    made = word_level_tokenizer(texts, list(_SPECIAL), lowercase=False)
    made.model_max_length = max_length
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


def settings(size: Size, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """For a config of transformers. Rows of the embedding beyond the words stand for nothing, but cost what a
    vocabulary of that size costs."""
    assert len(tokenizer) <= size.vocabulary
    return {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "intermediate_size": size.intermediate_size,
        "max_position_embeddings": 8194,
        "pad_token_id": _SPECIAL.index("<pad>"),
        "bos_token_id": None,
        "eos_token_id": None,
    }
