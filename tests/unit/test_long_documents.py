"""Documents longer than the model reads: where windows lie, what they count for, and that nothing is cut silently."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest

from jointrag import Reranker
from jointrag.rankers.writing import Limits, Written
from tests.tiny_cross_encoder import plain_scores, tiny_cross_encoder
from tests.word_rankers import WORDS

QUERY = "bara deso"
LONG = " ".join(random.Random(3).choices(WORDS, k=150))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("model"))


def written(num_tokens: int, num_around: int = 4) -> Written:
    """A document whose token i is the characters from 2 i to 2 i + 1."""
    around = [0] * (num_around // 2)
    return Written(around, list(range(num_tokens)), around, [(2 * i, 2 * i + 1) for i in range(num_tokens)])


def spans(found: Written, limits: Limits) -> list[tuple[int, int]]:
    return [(piece.window.start_token, piece.window.end_token) for piece in found.pieces(limits)[0]]


# ---- where windows lie -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "num_tokens, expected",
    [
        (0, [(0, 0)]),
        (10, [(0, 10)]),
        (11, [(0, 10), (7, 11)]),
        (17, [(0, 10), (7, 17)]),
        (18, [(0, 10), (7, 17), (14, 18)]),
    ],
)
def test_windows_of_ten_that_share_three(num_tokens: int, expected: list[tuple[int, int]]) -> None:
    assert spans(written(num_tokens), Limits(14, windows=True, overlap=3)) == expected


@pytest.mark.parametrize("num_tokens", [1, 299, 300, 301, 1000])
@pytest.mark.parametrize("max_length, overlap", [(304, None), (304, 0), (304, 299), (44, None)])
def test_windows_cover_every_token_and_overlap_as_asked(num_tokens: int, max_length: int, overlap: int | None) -> None:
    limits = Limits(max_length, windows=True, overlap=overlap)
    room = max_length - 4
    shared = overlap if overlap is not None else min(80, room // 4)
    found = spans(written(num_tokens), limits)
    assert found[0][0] == 0 and found[-1][1] == num_tokens
    assert all(end - start <= room for start, end in found)
    assert all(end - start == shared for (start, _), (_, end) in zip(found[1:], found, strict=False))


def test_a_quarter_of_a_window_is_shared_where_80_tokens_are_more() -> None:
    assert Limits(512, windows=True).shared(490) == 80
    assert Limits(512, windows=True).shared(120) == 30
    assert Limits(512, windows=True, overlap=100).shared(120) == 100


@pytest.mark.parametrize(
    "limits, message",
    [
        (Limits(4), r"max_length=4 leaves 0 tokens to the document, and 1 are needed; raise max_length$"),
        (Limits(2, windows=True), r"leaves 0 tokens to the document, and 1 are needed; raise max_length or lower"),
        (Limits(14, windows=True, overlap=10), r"leaves 10 tokens to the document, and 11 are needed"),
    ],
)
def test_no_room_is_an_error(limits: Limits, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written(20).pieces(limits)


# ---- what they count for ---------------------------------------------------------------------------------------------


def windows_by_hand(max_length: int, overlap: int) -> list[str]:
    """A word is a token; [CLS] query [SEP] document [SEP] has three more, and the query's two."""
    words, room = LONG.split(), max_length - 5
    starts = range(0, len(words) - overlap, room - overlap)
    return [" ".join(words[start : start + room]) for start in starts]


@pytest.mark.parametrize("max_length, overlap", [(64, 14), (32, 5), (64, 0)])
def test_a_long_document_counts_as_its_windows_do(folder: Path, max_length: int, overlap: int) -> None:
    texts = windows_by_hand(max_length, overlap)
    assert len(texts) > 2
    scores = plain_scores(folder, [(QUERY, text) for text in texts])
    best = max(range(len(texts)), key=lambda i: scores[i])
    expected = {
        "max": scores[best],
        "first": scores[0],
        "mean": sum(scores) / len(scores),
        "top2": sum(sorted(scores)[-2:]),
    }
    for aggregate, value in expected.items():
        limits: dict[str, Any] = {"aggregate": aggregate, "overlap": overlap, "max_length": max_length}
        reranker = Reranker(str(folder), device="cpu", long_documents="windows", **limits)
        (one,) = reranker.rank(QUERY, [LONG])
        assert one.score == pytest.approx(value, abs=1e-4), aggregate
        assert one.passage == texts[0 if aggregate == "first" else best], aggregate
        assert one.window is not None
        assert one.window.start_token == (0 if aggregate == "first" else best) * (max_length - 5 - overlap)
        assert one.unread_tokens == 0
        assert one.to_dict()["window"]["end"] == one.window.end


def test_a_short_document_scores_the_same_in_windows_as_whole(folder: Path) -> None:
    texts = ["deso kite", " ".join(WORDS), "bara"]
    whole = Reranker(str(folder), device="cpu").score([(QUERY, text) for text in texts])
    windows = Reranker(str(folder), device="cpu", long_documents="windows", aggregate="mean")
    assert windows.score([(QUERY, text) for text in texts]) == pytest.approx(whole, abs=1e-5)


def test_a_passage_in_the_middle_is_found_in_windows_alone(folder: Path) -> None:
    reranker = Reranker(str(folder), device="cpu")
    candidates = [" ".join(words) for words in zip(*[iter(WORDS)] * 3, strict=False)]
    best = reranker.rank(QUERY, candidates)[0].text
    other = reranker.rank(QUERY, candidates)[-1].text.split()[0]
    long = " ".join([other] * 120 + best.split() * 20 + [other] * 120)
    assert reranker.rank(QUERY, [long])[0].score == pytest.approx(reranker.score([(QUERY, " ".join([other] * 59))])[0])
    read = Reranker(str(folder), device="cpu", long_documents="windows").rank(QUERY, [long])[0]
    assert best in read.passage


def test_what_is_cut_is_said_once_with_its_number(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    reranker = Reranker(str(folder), device="cpu")
    with caplog.at_level(logging.WARNING):
        ranking = reranker.rank(QUERY, [LONG, "deso", " ".join(WORDS * 2)])
    (record,) = caplog.records
    assert "2 of 3 documents are longer than max_length=64 and were cut, by up to 91 tokens" in record.getMessage()
    assert {one.index: one.unread_tokens for one in ranking} == {0: 150 - 59, 1: 0, 2: 1}
    assert ranking[0].to_dict().get("unread_tokens", 0) == ranking[0].unread_tokens


def test_a_query_that_is_cut_is_said_too(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Reranker(str(folder), device="cpu").score([(LONG, "deso"), (LONG, "bara"), (QUERY, "bara")])
    (record,) = caplog.records
    assert "a query of 150 tokens was cut to 48, three quarters of max_length=64" in record.getMessage()


def test_a_length_that_the_model_does_not_read_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"max_length=65, but .* has positions for 64 tokens"):
        Reranker(str(folder), device="cpu", max_length=65)
    with pytest.raises(ValueError, match="max_length=65, but the model has positions for 64"):
        Reranker(str(folder), device="cpu").compute_score([(QUERY, LONG)], max_length=65)
