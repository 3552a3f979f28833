"""What Reranker promises whatever the model: places, ids, errors, and RAG-Retrieval's names."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jointrag import Reranker
from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.rag_retrieval import kind_of
from jointrag.rankers.results import Document
from tests.tiny_cross_encoder import plain_scores, tiny_cross_encoder
from tests.word_rankers import WORDS

QUERY = "bara deso"
TEXTS = ["deso kite bara", "lovi muvi", "", "naso nate bara deso", "deso kite bara"]


class ByLength(Ranker):
    """The longer the better."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        self.calls.append(len(pairs))
        return [float(len(text)) for _, text in pairs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Reranker:
    return Reranker(str(folder), device="cpu")


# ---- places, ids, metadata -------------------------------------------------------------------------------------------


def test_a_ranking_keeps_the_callers_places_and_puts_empty_documents_last() -> None:
    documents = [
        None,
        "bbb",
        {"text": "cc", "id": 7, "metadata": {"page": 3}, "title": "C"},
        " \n",
        Document("dddd", "d"),
    ]
    ranker = ByLength()
    ranking = Reranker(ranker).rank("q", documents)
    assert [(one.rank, one.index, one.id, one.text) for one in ranking] == [
        (1, 4, "d", "dddd"), (2, 1, None, "bbb"), (3, 2, "7", "cc"), (4, 0, None, None), (5, 3, None, " \n"),
    ]  # fmt: skip
    assert [one.score for one in ranking] == [4, 3, 2, -math.inf, -math.inf]
    assert ranking[2].document.metadata == {"page": 3, "title": "C"}
    assert ranker.calls == [3], "the model was asked about documents without text"
    assert ranking[3].to_dict()["score"] is None  # JSON has no infinity


def test_equal_scores_stay_in_the_callers_order_and_top_k_cuts() -> None:
    ranking = Reranker(ByLength()).rank("q", ["aa", "bb", "c", "dd"], top_k=2)
    assert [one.index for one in ranking] == [0, 1]
    assert len(Reranker(ByLength()).rank("q", ["aa"], top_k=9)) == 1
    assert len(Reranker(ByLength()).rank("q", [])) == 0


def test_many_queries_at_once_are_the_same_as_one_by_one(reranker: Reranker) -> None:
    queries, groups = [QUERY, "lovi", "muvi naso"], [TEXTS, [None, "kite"], []]
    together = reranker.rank_batch(queries, groups)
    for query, group, ranking in zip(queries, groups, together, strict=True):
        alone = reranker.rank(query, group)
        assert [one.index for one in ranking] == [one.index for one in alone]
        assert [one.score for one in ranking] == pytest.approx([one.score for one in alone], abs=1e-5)


def test_scores_are_the_models_own_in_the_order_of_the_pairs(folder: Path, reranker: Reranker) -> None:
    pairs = [(QUERY, " ".join(WORDS[:n])) for n in (1, 20, 5, 11, 2)] * 3
    assert reranker.score(pairs) == pytest.approx(plain_scores(folder, pairs), abs=1e-4)
    assert reranker.score([]) == []
    one = reranker.score(pairs[:1])
    assert isinstance(one, list) and len(one) == 1


def test_normalized_scores_are_between_0_and_1_and_in_the_same_order(reranker: Reranker) -> None:
    pairs = [(QUERY, text) for text in TEXTS if text]
    plain, normal = reranker.score(pairs), reranker.score(pairs, normalize=True)
    assert normal == pytest.approx([1 / (1 + math.exp(-score)) for score in plain])
    assert reranker.rank(QUERY, TEXTS, normalize=True)[-1].score == 0.0


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda r: r.rank("q", "one text"), "a list of documents is expected"),
        (lambda r: r.rank("q", ["a", 3]), "document 1: 3 is neither a text nor"),
        (lambda r: r.rank("q", [{"txt": "a"}]), "document 0"),
        (lambda r: r.rank("q", ["a"], top_k=0), "top_k=0"),
        (lambda r: r.rank_batch(["q"], []), "1 queries, but documents for 0"),
        (lambda r: r.score([("q", "a"), ("q",)]), "pair 1"),
        (lambda r: r.score([("q", None)]), "pair 0"),
        (lambda r: r.rerank(None, ["a"]), "pair 0"),
        (lambda r: r.rerank("q", ["a"], long_doc_process_strategy="slice"), "max_score_slice or max_length_truncation"),
        (lambda r: r.rerank("q", ["a"], long_doc_process_strategy="max_score_slice"), "ByLength reads documents whole"),
        (lambda r: r.compute_score(["q", "a"], prompt="judge"), "ByLength has no setting instruction"),
    ],
)
def test_mistakes_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Reranker(ByLength()))


def test_mistakes_in_the_making(folder: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"long_documents": "cut"}, "truncate or windows"),
        ({"aggregate": "sum"}, "max, first, mean, top2"),
        ({"kind": "cross-encoder"}, "kind='cross-encoder' is none of"),
        ({"model_type": "bert"}, "model_type='bert' is none of cross-encoder, llm, colbert"),
        ({"model_type": "llm", "kind": "decoder"}, "say the same"),
        ({"cutoff": 3}, "no option cutoff"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            Reranker(str(folder), device="cpu", **options)
    with pytest.raises(ValueError, match="long_documents=windows is not for it"):
        Reranker(ByLength(), long_documents="windows")


def test_a_score_that_is_no_number_is_an_error() -> None:
    class Broken(Ranker):
        def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
            return [math.nan for _ in pairs]

    with pytest.raises(ValueError, match="pair 0: the model's score is not a number"):
        Reranker(Broken()).score([("q", "a")])


def test_a_query_asked_twice_in_a_row_has_two_lists() -> None:
    class Among(Ranker):
        """How many are ranked together."""

        by_query = True

        def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
            return [float(len(pairs)) for _ in pairs]

    rankings = Reranker(Among()).rank_batch(["q", "q", "p"], [["a"], ["b", "c"], ["d", None]])
    assert [[one.score for one in ranking] for ranking in rankings] == [[1.0], [2.0, 2.0], [1.0, -math.inf]]


# ---- RAG-Retrieval's names -------------------------------------------------------------------------------------------


def test_code_for_rag_retrieval_runs(folder: Path, reranker: Reranker) -> None:
    """The same calls with the same meaning; defects of its own are gone."""
    theirs = Reranker(str(folder), model_type="cross-encoder", device="cpu", verbose=0)
    pairs = [[QUERY, "deso kite"], [QUERY, "lovi"]]
    assert theirs.compute_score(pairs, batch_size=256, max_length=32, normalize=True, enable_tqdm=False) == (
        reranker.score([(query, text) for query, text in pairs], normalize=True)
    )
    (alone,) = theirs.compute_score([pairs[0]])  # a list there is of one
    assert theirs.compute_score(tuple(pairs[0])) == [alone]

    ranking = theirs.rerank(QUERY, TEXTS)
    assert [one.doc_id for one in ranking.results] == [one.index for one in reranker.rank(QUERY, TEXTS)]
    first = ranking.top_k(1)[0]
    assert (first.text, first.rank, first.score) == (TEXTS[first.doc_id], 1, ranking.get_score_by_docid(first.doc_id))
    assert ranking.results_count() == len(TEXTS), "an empty document was dropped"
    assert ranking.get_score_by_docid(2) == -math.inf and ranking.get_score_by_docid(99) is None
    assert theirs.rerank(QUERY, []).results == ()
    assert theirs.rerank(QUERY, "deso kite")[0].score == pytest.approx(alone, abs=1e-5)


def test_strategies_for_long_documents_have_their_names(reranker: Reranker, caplog) -> None:
    long = " ".join(WORDS * 5)
    with caplog.at_level(logging.WARNING):
        cut = reranker.rerank(QUERY, [long], long_doc_process_strategy="max_length_truncation")[0]
    assert cut.unread_tokens > 0 and "1 of 1 documents are longer than max_length=64" in caplog.text
    assert reranker.rank(QUERY, [long])[0].score == cut.score
    sliced = reranker.rerank(QUERY, [long], long_doc_process_strategy="max_score_slice")[0]
    assert sliced.unread_tokens == 0 and sliced.score >= cut.score - 1e-5
    assert reranker.rerank(QUERY, [long])[0] == sliced, "windows are the default there"
    short = reranker.rerank(QUERY, [long], max_length=32)[0]
    assert short.window.end_token - short.window.start_token <= 32
    assert not reranker.limits.windows and reranker.limits.max_length == 64, "a call changed the reranker"


def test_model_types() -> None:
    assert kind_of("cross-encoder", "any") == ("cross_encoder", {})
    assert kind_of("colbert", "any") == ("late_interaction", {})
    assert kind_of("llm", "any") == ("decoder", {"prompt": "bge"})
    assert kind_of("llm", "BAAI/bge-reranker-v2-minicpm-layerwise")[0] == "layerwise"
    assert kind_of("llm", "Qwen/Qwen3-Reranker-0.6B") == ("decoder", {"prompt": "qwen3"})
