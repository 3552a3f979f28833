"""Prompts as tokens: chat templates of every kind, and passages cut fairly where a prompt is too long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from jointrag.prompts import ANSWER_NOW, encode_prompt, encode_within, messages, role_token, share
from jointrag.types import Prompt
from trainers.scratch import word_level_tokenizer

WORDS = [f"w{i}" for i in range(60)]
PROMPT = Prompt(
    "generator",
    "Answer shortly .",
    "Who is it ?",
    passages=tuple(f"Passage : {' '.join(WORDS[:n])}" for n in (40, 5, 25)),
)
WITH_SYSTEM = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)
FORGETS_SYSTEM = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


def tokenizer(template: str | None = None, scratch: bool = False) -> Any:
    texts = [PROMPT.instructions, PROMPT.content, " ".join(WORDS)]
    special = ["<pad>", "<unk>", "<eos>", "<system>", "<user>", "<assistant>"]
    special += [ANSWER_NOW, role_token("generator")] if scratch else []
    made = word_level_tokenizer(texts, special, lowercase=False, keep_newlines=True)
    assert isinstance(made, PreTrainedTokenizerFast)
    made.chat_template = template
    return made


def text_of(tok: Any, prompt: Prompt) -> str:
    return tok.decode(encode_prompt(tok, prompt), skip_special_tokens=False)


@pytest.mark.parametrize("template", [WITH_SYSTEM, REFUSES_SYSTEM, FORGETS_SYSTEM, None])
def test_every_kind_of_model_gets_the_instructions_once_and_the_whole_content(template: str | None) -> None:
    tok = tokenizer(template)
    text = text_of(tok, PROMPT)
    assert text.count("Answer shortly") == 1
    assert all(passage in text.replace("\n", " ") for passage in PROMPT.passages)
    assert ("<system>" in text) == (template == WITH_SYSTEM)
    assert ("<assistant>" in text) == (template is not None)


def test_a_conversation() -> None:
    system, user = messages(PROMPT)
    assert (system["role"], system["content"]) == ("system", PROMPT.instructions)
    assert (user["role"], user["content"]) == ("user", PROMPT.content)
    (both,) = messages(PROMPT, system_role=False)
    assert both["content"] == f"{PROMPT.instructions}\n\n{PROMPT.content}"


@pytest.mark.parametrize("template", [WITH_SYSTEM, REFUSES_SYSTEM, None])
@pytest.mark.parametrize("scratch", [True, False])
def test_the_longest_passages_are_cut_and_nothing_else(template: str | None, scratch: bool) -> None:
    tok = tokenizer(None if scratch else template, scratch)
    whole = encode_prompt(tok, PROMPT)
    assert encode_within(tok, PROMPT, len(whole)) == (whole, False)
    ids, is_cut = encode_within(tok, PROMPT, len(whole) - 30)
    assert is_cut
    assert len(ids) == len(whole) - 30
    text = tok.decode(ids)
    assert "Who is it?" in text
    assert scratch or "Answer shortly" in text
    lengths = [line.count(" w") for line in text.split("\n") if "Passage" in line]
    assert lengths[1] == 5  # short: whole
    assert lengths[0] - lengths[2] in (0, 1)  # long: alike


def test_a_question_that_does_not_fit_is_an_error() -> None:
    tok = tokenizer(WITH_SYSTEM)
    with pytest.raises(
        ValueError, match=r"a generator prompt of \d+ tokens without any passage .* room for 5;"
    ) as said:
        encode_within(tok, PROMPT, 5)
    assert str(said.value).endswith(
        f"raise language_model.max_length, or shorten the question ({PROMPT.opening!r:.60})"
    )


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 300))
def test_shares_are_fair(wanted: list[int], total: int) -> None:
    given_ = share(wanted, total)
    assert all(0 <= got <= asked for got, asked in zip(given_, wanted, strict=True))
    assert sum(given_) == min(total, sum(wanted))
    cut = [got for got, asked in zip(given_, wanted, strict=True) if got < asked]
    assert all(got >= max(given_, default=0) - 1 for got in cut)
