"""Rerankers behind an address, against a small server that answers as text-embeddings-inference, Cohere's and OpenAI's
do; and models that order lists."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jointrag import Reranker, served
from jointrag.generation import Completion, Sampling
from jointrag.rankers.listwise import Listwise, permutation
from jointrag.rankers.loading import Loading
from jointrag.types import Prompt
from tests import ranker_models as tiny
from tests.answering import Asked, Said, answering

QUERY = "who wrote Faust?"
TEXTS = ["Oslo", "Goethe wrote Faust.", "", "Faust", "Goethe wrote Faust in two parts"]


def words(query: str, text: str) -> float:
    return len(set(query.strip("?").split()) & set(text.strip(".").split())) / 4


@dataclass
class Server:
    """Scores are the share of the query's words; `fail`: how often it is busy first."""

    url: str = ""
    fail: int = 0
    logprobs: bool = True
    refuses: bool = False
    wrong: Any = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, asked: Asked) -> Said:
        path, body = asked.path, asked.body
        with self.lock:
            self.bodies.append(body)
            self.headers.append(asked.headers)
            if self.fail:
                self.fail -= 1
                return Said({"error": "busy"}, 503)
        if self.wrong is not None:
            return Said(self.wrong)
        if path == "/rerank":
            found = [{"index": i, "score": words(body["query"], text)} for i, text in enumerate(body["texts"])]
            return Said(sorted(found, key=lambda one: -one["score"]))
        if path == "/v1/rerank":
            texts = body["documents"]
            found = [{"index": i, "relevance_score": words(body["query"], text)} for i, text in enumerate(texts)]
            return Said({"model": body["model"], "results": sorted(found, key=lambda one: -one["relevance_score"])})
        assert path == "/v1/chat/completions"
        if self.refuses and "logprobs" in body:
            return Said({"error": {"message": "logprobs is not supported"}}, 400)
        content = body["messages"][-1]["content"]
        yes = 0.1 + 0.8 * words(QUERY, content.split("Document: ")[1].split("\n")[0])
        choice: dict[str, Any] = {"message": {"content": "Yes." if yes > 0.4 else "No"}}
        if self.logprobs and "logprobs" in body:
            said = {"Yes": 0.75 * yes, " yes": 0.25 * yes, "No": 0.9 - yes, "Well": 0.1}
            top = [{"token": token, "logprob": math.log(p)} for token, p in said.items() if p > 0]
            choice["logprobs"] = {"content": [{"token": "Yes", "top_logprobs": top}]}
        return Said({"choices": [choice]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(served, "FIRST_PAUSE_S", 0.001)
    told = Server()
    with answering(told.answer) as told.url:
        yield told


PAIRS = [(QUERY, text) for text in TEXTS] + [("Oslo Faust", text) for text in TEXTS]
EXPECTED = [words(*pair) for pair in PAIRS]


@pytest.mark.parametrize("form", ["tei", "cohere"])
def test_rerank_endpoints(server: Server, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "secret")
    server.fail = 2
    given: dict[str, Any] = {"api_key_variable": "THE_KEY", "texts_per_request": 2, "extra": {"truncate": True}}
    if form == "tei":
        reranker = Reranker(f"{server.url}/rerank", **given)
    else:
        reranker = Reranker(f"{server.url}/v1/rerank", served_name="jina", **given)
    assert reranker.score(PAIRS) == pytest.approx(EXPECTED)
    assert reranker.score(PAIRS, normalize=True) == pytest.approx(EXPECTED)
    ranking = reranker.rank(QUERY, TEXTS, top_k=3)
    assert [one.index for one in ranking] == [1, 4, 3]
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    assert all(body["truncate"] is True and len(body.get("texts") or body["documents"]) <= 2 for body in server.bodies)


def test_a_chat_model_with_log_probabilities(server: Server) -> None:
    reranker = Reranker(f"{server.url}/v1", served_name="tiny", instruction="Is Faust in it?")
    found = reranker.score(PAIRS[:2])
    for (query, text), value in zip(PAIRS[:2], found, strict=True):
        yes = 0.1 + 0.8 * words(query, text)
        assert value == pytest.approx(math.log(yes) - math.log(0.9 - yes))
    assert server.bodies[0]["messages"][0]["content"].endswith("\n\nIs Faust in it?")
    assert server.bodies[0]["temperature"] == 0 and server.bodies[0]["top_logprobs"] == 20
    assert [one.index for one in reranker.rank(QUERY, TEXTS)][:2] == [1, 4]


@pytest.mark.parametrize("refuses", [True, False])
def test_a_chat_model_without_log_probabilities(
    server: Server, refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server.logprobs, server.refuses = False, refuses
    reranker = Reranker(f"{server.url}/v1", served_name="tiny", num_parallel=1)
    assert reranker.score(PAIRS[:2]) == [-1.0, 1.0]
    assert reranker.score(PAIRS[:2], normalize=True) == pytest.approx([0.26894, 0.73106], abs=1e-4)
    assert ("gives no log-probabilities" in caplog.text) == refuses
    assert sum("logprobs" in body for body in server.bodies) == (1 if refuses else 4)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([{"index": 0, "score": 1.0}], r"gave scores for the texts \[0\] of 2"),
        ({"scores": [1, 2]}, "did not answer in the form tei"),
        ([{"index": 0, "score": 1.0}, {"index": 2, "score": 1.0}], r"gave scores for the texts \[0, 2\] of 2"),
    ],
)
def test_answers_in_another_form_are_errors(server: Server, wrong: Any, said: str) -> None:
    server.wrong = wrong
    with pytest.raises(ValueError, match=said):
        Reranker(f"{server.url}/rerank").score(PAIRS[:2])


def test_addresses_that_do_not_say_enough() -> None:
    with pytest.raises(ValueError, match=r"an address ends in /rerank .* or in /v1"):
        Reranker("http://127.0.0.1:9/api")
    with pytest.raises(ValueError, match=r"say which model of the server, served_name="):
        Reranker("http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match=r"form='grpc' is none of tei, cohere, chat"):
        Reranker("http://127.0.0.1:9/rerank", form="grpc")
    with pytest.raises(ValueError, match="THE_MISSING_KEY, which is not set"):
        Reranker("http://127.0.0.1:9/rerank", api_key_variable="THE_MISSING_KEY")


# ---- listwise --------------------------------------------------------------------------------------------------------


class Sorter:
    """Orders the numbers in the passages, the greatest first, as a model that does as it is told would."""

    def __init__(self, spoil: Sequence[str] = ()) -> None:
        self.prompts: list[Prompt] = []
        self.calls: list[int] = []
        self.spoil = list(spoil)

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        self.prompts += prompts
        self.calls.append(len(prompts))
        return [Completion(self.spoil.pop(0) if self.spoil else self.order(prompt)) for prompt in prompts]

    def order(self, prompt: Prompt) -> str:
        lines = [line.partition("] ") for line in prompt.content.splitlines() if line.startswith("[")]
        worth = {int(label[1:]): int(text.split()[-1]) for label, _, text in lines}
        return " > ".join(f"[{i}]" for i in sorted(worth, key=lambda i: -worth[i]))


def listwise(lm: Sorter, **settings: Any) -> Reranker:
    return Reranker(Listwise("none", Loading(), lm=lm, **settings))


def test_the_best_of_a_long_list_rises_through_the_windows() -> None:
    lm = Sorter()
    documents = [f"passage number {i}" for i in range(45)]
    ranking = listwise(lm).rank("the greatest?", documents)
    assert [one.index for one in ranking[:10]] == list(range(44, 34, -1))  # as far as a step lets pass
    assert sorted(one.index for one in ranking) == list(range(45))
    sizes = [sum(line.startswith("[") for line in prompt.content.splitlines()) for prompt in lm.prompts]
    assert sizes == [20, 20, 20, 15]  # 25–45, 15–35, 5–25, 0–15
    assert ranking[0].score == 1 and ranking[-1].score == pytest.approx(1 / 45)
    assert ranking[0].index == 44 and "[1] passage number 25" in lm.prompts[0].content


def test_queries_go_together_and_short_lists_are_one_window() -> None:
    lm = Sorter()
    lists = [[f"a {i}" for i in range(3)], [f"b {i}" for i in range(25)], ["c 1"]]
    rankings = listwise(lm).rank_batch(["x", "y", "z"], lists)
    assert [[one.index for one in ranking][:3] for ranking in rankings] == [[2, 1, 0], [24, 23, 22], [0]]
    assert lm.calls == [2, 1]


@pytest.mark.parametrize(
    ("answer", "order", "complete"),
    [
        ("[2] > [3] > [1]", [1, 2, 0], True),
        ("2, 3, 1", [1, 2, 0], True),
        ("[3] > [3] > [9] > [1]", [2, 0, 1], False),
        ("I cannot say.", [0, 1, 2], False),
        ("<think>1 or 3?</think> [2] > [1] > [3]", [1, 0, 2], True),
        ("[0] > [2]", [1, 0, 2], False),
    ],
)
def test_orders_are_repaired(answer: str, order: list[int], complete: bool) -> None:
    assert permutation(answer, 3) == (order, complete)


def test_a_repair_is_said_and_keeps_the_order_given(caplog: pytest.LogCaptureFixture) -> None:
    ranking = listwise(Sorter(["no idea"])).rank("x", ["a 1", "b 2", "c 3"])
    assert [one.index for one in ranking] == [0, 1, 2]
    assert "1 of 1 answers were no full order and were repaired" in caplog.text


def test_long_passages_are_cut_and_it_is_said() -> None:
    lm = Sorter()
    reranker = Reranker(Listwise("none", Loading(max_length=4), lm=lm))
    found = reranker.rank("x", ["one two three 4 five six", "浮士德 5", "a 7"])
    assert [(one.index, one.unread_tokens) for one in found] == [(2, 0), (1, 0), (0, 2)]
    assert "five" not in lm.prompts[0].content


@pytest.mark.parametrize("settings", [{"window": 1}, {"step": 0}, {"step": 21}])
def test_windows_that_cannot_move(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="the window moves by 1 to"):
        listwise(Sorter(), **settings)


def test_a_local_model_orders_without_thinking_aloud(tmp_path: Path) -> None:
    from jointrag.generation import LocalLM
    from jointrag.prompts import encode_prompt

    reranker = Reranker(str(tiny.decoder("qwen3", tmp_path)), "listwise", max_new_tokens=8, window=4, step=2)
    ranker: Any = reranker.ranker
    assert isinstance(ranker.lm, LocalLM)
    asked: Any = ranker.lm.tokenizer.decode(encode_prompt(ranker.lm.tokenizer, Prompt("ranker", "order", "these")))
    assert asked.endswith("<think>\n\n</think>\n\n")
    ranking = reranker.rank("capital?", ["Oslo", "Goethe", "Faust", "a fjord", "two parts"])
    assert sorted(one.index for one in ranking) == [0, 1, 2, 3, 4]


# ---- BM25 ------------------------------------------------------------------------------------------------------------


def test_bm25_is_bm25_over_the_documents_of_the_query(tmp_path: Path) -> None:
    from jointrag.bm25 import BM25

    texts = ["Goethe wrote Faust.", "Oslo is a capital.", "浮士德是歌德写的", "who writes?", "!?"]
    expected = BM25.build(texts, scratch=tmp_path).score(QUERY, texts)
    reranker = Reranker("bm25")
    assert [one.index for one in reranker.rank(QUERY, texts)] == [0, 3, 1, 2, 4]
    assert reranker.score([(QUERY, text) for text in texts]) == pytest.approx(expected)
    assert [one.index for one in reranker.rank("浮士德", texts, top_k=1)] == [2]
    assert reranker.score([("x", "!?"), ("x", "")]) == [0.0, 0.0]
    assert reranker.score([(QUERY, "none of it")], normalize=True) == [0.0]
    with pytest.raises(ValueError, match="language='klingon' has no stemmer"):
        Reranker("bm25", language="klingon")
