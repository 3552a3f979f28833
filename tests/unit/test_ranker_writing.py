"""How pairs become tokens: what stands around them, where they are cut, and which characters a window has."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from jointrag.rankers.prompts import PROMPTS
from jointrag.rankers.writing import Limits, Sentence, Template, Written
from tests import ranker_models as tiny
from tests.ranker_models import LONG

DOCUMENTS = [LONG, "浮士德是歌德写的。" * 30, " ".join(["Oslo 🎭 浮士德 é"] * 25)]


@pytest.fixture(scope="module", params=["wordpiece", "unigram", "byte level", "byte fallback"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    made = {
        "wordpiece": tiny.wordpiece,
        "unigram": tiny.sentencepiece,
        "byte level": tiny.byte_level,
        "byte fallback": tiny.byte_fallback,
    }
    return made[request.param]()


def write(writing: Any, query: str, document: str, limits: Limits) -> Written:
    (written,) = writing.write([query], [document], limits)
    return written


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("prefix", ["", "B: ", "passage:"])
def test_windows_cover_every_token_and_every_character(tokenizer: Any, document: str, prefix: str) -> None:
    limits = Limits(64, windows=True, overlap=9)
    writing = Template(tokenizer, [3], [2], [2, 2], query_prefix="A: ", document_prefix=prefix)
    written = write(writing, "who wrote Faust?", document, limits)
    pieces, unread = written.pieces(limits)
    assert unread == 0 and len(pieces) > 2
    assert all(len(piece.ids) == 64 for piece in pieces[:-1]) and len(pieces[-1].ids) <= 64
    opening = pieces[0].ids[: pieces[0].num_first]
    read: list[int] = []
    for piece in pieces:  # each one begins alike, the prefix of the document included
        assert piece.ids[: piece.num_first] == opening and piece.ids[-2:] == [2, 2]
        read += piece.ids[piece.num_first : -2][len(read) - piece.window.start_token :]
    assert opening == written.before and read == written.document
    for earlier, later in pairwise(piece.window for piece in pieces):
        assert later.start_token == earlier.end_token - 9
        assert later.start <= earlier.end  # no character between them is lost
    assert pieces[0].window.start == 0 and pieces[-1].window.end == len(document)


def test_a_prefix_is_tokenised_with_its_text(tokenizer: Any) -> None:
    limits = Limits(64)
    written = write(Template(tokenizer, document_prefix="B: "), "", "Goethe wrote Faust.", limits)
    assert [*written.before, *written.document] == tokenizer(
        "B: Goethe wrote Faust.", add_special_tokens=False
    ).input_ids
    assert written.before and written.document


def test_a_cut_document_tells_what_was_not_read(tokenizer: Any) -> None:
    limits = Limits(40)
    written = write(Template(tokenizer, [1], [2], [2]), "who?", LONG, limits)
    ((piece,), unread) = written.pieces(limits)
    assert len(piece.ids) == 40
    assert unread == len(written.document) - (40 - piece.num_first - 1)
    assert 0 < piece.window.end < len(LONG)


def test_a_query_gets_three_quarters_at_most(tokenizer: Any) -> None:
    limits = Limits(40)
    for writing in (Template(tokenizer), Sentence(tokenizer, "", "\n")):
        written = write(writing, LONG, "Oslo", limits)
        assert 28 <= len(written.before) <= 32  # 30, and where a text is tokenised as a whole what is at its end


def test_a_sentence_is_tokenised_as_a_whole(tokenizer: Any) -> None:
    written = write(Sentence(tokenizer, "Q: ", "\nD: ", head=[1], tail=[2]), "who?", "Goethe 歌德", Limits(64))
    whole = tokenizer("Q: who?\nD: Goethe 歌德", add_special_tokens=False).input_ids
    assert [*written.before, *written.document, *written.after] == [1, *whole, 2]
    spans = [written.offsets[i] for i in range(len(written.document))]
    assert spans[0][0] == 0 and spans[-1][1] == len("Goethe 歌德")


def test_no_room_for_a_document_says_what_to_do(tokenizer: Any) -> None:
    writing = Template(tokenizer, [1] * 20, [2] * 20, [2])
    with pytest.raises(ValueError, match=r"max_length=40 leaves 0 tokens to the document, and 1 are needed; raise max"):
        write(writing, "who?", "x", Limits(40)).pieces(Limits(40))
    limits = Limits(52, windows=True, overlap=12)
    with pytest.raises(ValueError, match=r"13 are needed; raise max_length or lower overlap"):
        write(writing, "who?", "x", limits).pieces(limits)


def test_chat_answers_with_the_token_that_follows_the_prompt() -> None:
    """SentencePiece has another token for Yes at the head of a text than after a line."""
    tokenizer = tiny.byte_fallback("llama")
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]\n{% endfor %}"
    asked = PROMPTS["chat"](tokenizer, None)
    assert tokenizer.convert_ids_to_tokens([asked.yes, asked.no]) == ["Yes", "No"]
    assert tokenizer("Yes", add_special_tokens=False).input_ids[0] != asked.yes


def test_chat_without_a_template_or_without_the_texts_in_it() -> None:
    tokenizer = tiny.byte_fallback()
    with pytest.raises(ValueError, match="no chat template, so it cannot be asked in words"):
        PROMPTS["chat"](tokenizer, None)
    tokenizer.chat_template = "hello"
    with pytest.raises(ValueError, match="does not say the query and then the document"):
        PROMPTS["chat"](tokenizer, None)


@pytest.mark.parametrize("name", ["qwen3"])
def test_an_answer_that_is_no_token_is_an_error(name: str) -> None:
    tokenizer = tiny.sentencepiece()
    with pytest.raises(ValueError, match="'yes' is no token of"):
        PROMPTS[name](tokenizer, None)
