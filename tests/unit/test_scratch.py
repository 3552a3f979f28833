"""Word-level tokenizers for models from scratch."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainers.scratch import word_level_tokenizer

TEXTS = ["Who wrote Anna O'Neill's Saint-Denis?", "Document0,Document4\nnext line."]
LM_TOKENS = ["<pad>", "<unk>", "<eos>", "<rewriter>"]


def test_words_and_punctuation_are_tokens_and_decode_reads_well() -> None:
    tokenizer = word_level_tokenizer(TEXTS, LM_TOKENS, lowercase=False)
    ids = tokenizer("<rewriter>Who wrote Anna O'Neill's Saint-Denis?<eos>").input_ids
    expected = ["<rewriter>", "Who", "wrote", "Anna", "O'Neill", "'s", "Saint-Denis", "?", "<eos>"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Who wrote Anna O'Neill's Saint-Denis?"


def test_unknown_words_and_roles() -> None:
    tokenizer = word_level_tokenizer(TEXTS, LM_TOKENS, lowercase=False)
    assert tokenizer("who").input_ids == [tokenizer.unk_token_id]  # case is kept: only "Who" is known
    assert (tokenizer.pad_token_id, tokenizer.eos_token) == (0, "<eos>")
    assert len(tokenizer("line\nline").input_ids) == 2
    assert len(word_level_tokenizer(TEXTS, LM_TOKENS, False, keep_newlines=True)("line\nline").input_ids) == 3


def test_encoder_form_lowercases_and_wraps() -> None:
    tokenizer = word_level_tokenizer(TEXTS, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], lowercase=True)
    batch = tokenizer(["WHO wrote", "who"], padding=True)
    tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in batch.input_ids]
    assert tokens == [["[CLS]", "who", "wrote", "[SEP]"], ["[CLS]", "who", "[SEP]", "[PAD]"]]


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = word_level_tokenizer(TEXTS, LM_TOKENS, lowercase=False)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded("<rewriter> Document0,Document4.").input_ids
    assert ids == tokenizer("<rewriter> Document0,Document4.").input_ids
    assert loaded.decode(ids, skip_special_tokens=True) == "Document0, Document4."


def test_missing_role_is_named() -> None:
    with pytest.raises(ValueError, match="no unk token"):
        word_level_tokenizer(TEXTS, ["<pad>"], lowercase=False)
