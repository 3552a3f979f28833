"""The answer server over a real socket: the chain as it grows, chat clients, refusals, the line, the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests

from jointrag.retrieval import RetrieverUnavailable
from jointrag.types import Hit
from tests import tiny
from tests.asking import PASSAGES, QUESTION, Finds, Scripted, System, serving, system
from tests.serving import wait_until

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    tiny_system = System("tiny", tiny.chain(), tiny.FixedRetriever(), tiny.tiny_lm())
    with serving(system("mappo"), tiny_system) as url:
        yield url


def post(url: str, path: str = "/ask", **body: Any) -> requests.Response:
    return requests.post(url + path, json=body, timeout=30)


def test_the_whole_chain_at_once(url: str) -> None:
    said = post(url, question=f"  {QUESTION}\n").json()
    assert said["checkpoint"] == "mappo" and said["question"] == QUESTION and said["done"]
    assert said["answer"] == "Zavrazhye"
    assert [p["id"] for p in said["passages"] if p["selected"]] == ["films/1", "people/7"]
    real = post(url, question="Where does Anna live ?", checkpoint="tiny").json()
    assert real["checkpoint"] == "tiny" and len(real["turns"]) == 3 and real["done"]


def test_the_same_question_is_answered_the_same(url: str) -> None:
    answers = [post(url, question="Where does Ben live ?", checkpoint="tiny").json() for _ in range(2)]
    assert len({json.dumps({**one, "seconds": 0}) for one in answers}) == 1


class Stream:
    """Lines of an answer as they come."""

    def __init__(self, url: str, path: str, body: dict[str, Any]) -> None:
        self.connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
        self.connection.request("POST", path, json.dumps(body))
        self.response: HTTPResponse = self.connection.getresponse()

    def line(self) -> Any:
        return json.loads(self.response.readline())

    def close(self) -> None:
        self.response.close()
        self.connection.close()


def test_a_line_after_every_agent_while_the_next_one_thinks() -> None:
    llm = Scripted()
    llm.held |= {"rewriter", "selector", "generator"}
    with serving(system("mappo", llm)) as url:
        stream = Stream(url, "/ask", {"question": QUESTION, "stream": True})
        assert stream.response.getheader("Content-Type") == "application/x-ndjson; charset=utf-8"
        first = stream.line()
        assert first == {"checkpoint": "mappo", "question": QUESTION, "waiting": 0, "done": False}
        for agent in ("rewriter", "selector", "generator"):
            llm.release(agent)  # the line is there although the next agent is held
            line = stream.line()
            assert line["agent"] == agent
        assert line["answer"] == "Zavrazhye"
        assert stream.response.read() == b""


def test_requests_are_served_one_at_a_time_in_order_and_the_line_is_bounded() -> None:
    llm, other = Scripted(), Scripted()
    llm.held.add("rewriter")
    with serving(system("mappo", llm), system("warm_start", other), max_waiting=2) as url:
        streams = [Stream(url, "/ask", {"question": "first", "stream": True})]
        assert streams[0].line()["waiting"] == 0
        wait_until(lambda: llm.num_speaking == 1)
        for number in (1, 2):
            streams.append(Stream(url, "/ask", {"question": f"number {number}", "stream": True}))
            assert streams[-1].line()["waiting"] == number
        for path, body in (("/ask", {"question": "too much"}), (CHAT, {"messages": MESSAGES})):
            refused = post(url, path, **body)
            assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
            assert "2 requests are waiting already" in refused.text
        assert post(url, question=QUESTION, checkpoint="warm_start").ok  # a line of its own
        assert requests.get(f"{url}/health", timeout=5).json() == {"status": "ready"}
        llm.release("rewriter")
        for stream in streams:
            assert [json.loads(line)["done"] for line in stream.response.read().splitlines()] == [False, False, True]
        assert [asked.splitlines()[0] for asked in llm.asked] == ["first", "number 1", "number 2"]
        assert llm.most_speaking == 1
        assert post(url, question="and again").ok


def test_a_client_that_hangs_up_does_not_keep_its_place() -> None:
    llm = Scripted()
    llm.held.add("selector")
    with serving(system("mappo", llm), max_waiting=1) as url:
        gone = Stream(url, "/ask", {"question": "gone soon", "stream": True})
        assert gone.line()["waiting"] == 0 and gone.line()["agent"] == "rewriter"
        gone.close()
        llm.release("selector")
        for _ in range(4):
            assert post(url, question="after it").json()["answer"] == "Zavrazhye"


def test_what_the_model_cannot_read_is_said_and_the_next_question_is_answered() -> None:
    llm = Scripted()
    with serving(system("mappo", llm)) as url:
        for error, status in ((ValueError("too many tokens"), 422), (RuntimeError("out of memory"), 500)):
            llm.error = error
            told = post(url, question=QUESTION)
            assert told.status_code == status and str(error) in told.json()["error"]
            last = post(url, question=QUESTION, stream=True).text.splitlines()[-1]
            assert str(error) in json.loads(last)["error"] and json.loads(last)["status"] == status
            told = post(url, CHAT, messages=MESSAGES)
            assert told.status_code == status and str(error) in told.json()["error"]["message"]
            *_, last = post(url, CHAT, messages=MESSAGES, stream=True).text.split("\n\n")[:-1]
            assert str(error) in json.loads(last.removeprefix("data: "))["error"]["message"]
        llm.error = None
        assert post(url, question=QUESTION).ok


def test_a_retriever_that_is_gone_is_a_bad_gateway() -> None:
    class Gone(Finds):
        def search(self, queries: Any, k: int) -> list[list[Hit]]:
            raise RetrieverUnavailable("no sign of life")

    with serving(system("mappo", retriever=Gone())) as url:
        told = post(url, question=QUESTION)
        assert told.status_code == 502 and "no sign of life" in told.json()["error"]


# ---- chat clients ----------------------------------------------------------------------------------------------------


def test_openais_client_gets_an_answer_with_citations(url: str) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["mappo", "tiny"]
        assert client.models.retrieve("tiny").owned_by == "jointrag"
        made = client.chat.completions.create(model="mappo", messages=MESSAGES, temperature=0.3, max_tokens=20)
        message = made.choices[0].message
        assert message.content.startswith("Zavrazhye [1][3]\n\n[1] Solaris: ")
        cited = message.annotations[1].url_citation
        assert message.content[cited.start_index : cited.end_index] == "[3]"
        assert requests.get(cited.url, timeout=5).text == f"Andrei Tarkovsky\n\n{PASSAGES[2].text}\n"
        assert made.choices[0].finish_reason == "stop" and made.usage.total_tokens == 15
        assert made.citations[0]["title"] == "Solaris"
        bare = client.chat.completions.create(model="mappo", messages=MESSAGES, extra_body={"citations": False})
        assert bare.choices[0].message.content == "Zavrazhye"
        with pytest.raises(openai.NotFoundError, match="no checkpoint 'gpt-9'; there are mappo, tiny"):
            client.chat.completions.create(model="gpt-9", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="no message of the user"):
            client.chat.completions.create(model="mappo", messages=[{"role": "system", "content": "x"}])


def test_openais_client_streams(url: str) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        chunks = list(
            client.chat.completions.create(
                model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
            )
        )
        assert chunks[0].choices[0].delta.role == "assistant"
        whole = client.chat.completions.create(model="tiny", messages=MESSAGES)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed == whole.choices[0].message.content
        assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens > 10


def test_openais_client_hears_of_an_answer_that_broke_off_and_of_a_full_line() -> None:
    openai = pytest.importorskip("openai")
    llm = Scripted()
    llm.error = RuntimeError("out of memory")
    with (
        serving(system("mappo", llm), max_waiting=0) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        with pytest.raises(openai.APIError, match="out of memory"):
            list(client.chat.completions.create(model="mappo", messages=MESSAGES, stream=True))
        llm.held.add("generator")
        thread = threading.Thread(target=post, args=(url,), kwargs={"question": "slow"})
        thread.start()
        wait_until(lambda: llm.num_speaking == 1)
        with pytest.raises(openai.InternalServerError, match="waiting already"):
            client.chat.completions.create(model="mappo", messages=MESSAGES)
        llm.release("generator")
        thread.join(30)


def test_passages_with_unusual_ids_can_be_followed(url: str) -> None:
    post(url, question=QUESTION)
    for passage in PASSAGES:
        cited = requests.get(f"{url}/passages/{quote(passage.id, safe='')}", timeout=5)
        assert cited.text.strip().endswith(passage.text) and cited.headers["Content-Type"].startswith("text/plain")
    unknown = requests.get(f"{url}/passages/nothing", timeout=5)
    assert unknown.status_code == 404 and "ask the question again" in unknown.json()["error"]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, status, why",
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[]", 400, "not an object"),
        (b"{}", 400, "'question' is missing"),
        (b'{"question": 3}', 400, "'question' is not a string"),
        (b'{"question": " \\n"}', 400, "the question is empty"),
        (b'{"question": "\\ud800"}', 400, "not valid Unicode"),
        (b'{"question": "q", "stream": "yes"}', 400, "'stream' is neither true nor false"),
        (b'{"question": "q", "checkpoint": 1}', 400, "'checkpoint' is not a string"),
        (b'{"question": "q", "checkpoint": "best"}', 404, "no checkpoint 'best'; there are mappo, tiny"),
        (b'{"question": "%s"}' % (b"q" * 501), 413, "has 501 characters; 500 are read"),
        (b'{"question": "%s"}' % (b"q" * 20_000), 413, "20000 are read"),
        (b'{"question": "%s"}' % (b"q" * 200_000), 413, ""),
        (b"[" * 10_000, 400, "not JSON"),
    ],
)
def test_a_bad_body_is_refused(url: str, body: bytes, status: int, why: str) -> None:
    told = requests.post(f"{url}/ask", data=body, timeout=10)
    assert told.status_code == status and why in told.json()["error"]
    told = requests.post(url + CHAT, data=body, timeout=10)
    assert 400 <= told.status_code < 500
    if len(body) < 100_000:  # beyond it the connection refuses, before anybody knows the path
        assert told.json()["error"]["type"] == "invalid_request_error"


def test_wrong_paths_and_methods_are_json_errors(url: str) -> None:
    for method, path, status in (
        ("GET", "/ask", 405),
        ("POST", "/", 405),
        ("GET", "/page/../app.py", 404),
        ("GET", "/page.html", 404),
        ("GET", "/metrics", 404),
        ("GET", CHAT, 405),
    ):
        told = requests.request(method, url + path, timeout=5)
        assert (told.status_code, "error" in told.json()) == (status, True), path


def test_info_says_what_there_is(url: str) -> None:
    info = requests.get(f"{url}/info", timeout=5).json()
    assert info["run"] == "demo-run" and info["examples"][0] == QUESTION
    agents = ["rewriter", "selector", "generator"]
    assert info["checkpoints"] == [
        {"name": "mappo", "what": "jointly trained", "agents": agents},
        {"name": "tiny", "what": "", "agents": agents},
    ]


def test_stopping_finishes_what_is_under_way() -> None:
    llm = Scripted()
    llm.held.add("generator")
    answers: list[requests.Response] = []
    with serving(system("mappo", llm)) as url:
        thread = threading.Thread(target=lambda: answers.append(post(url, question=QUESTION)))
        thread.start()
        wait_until(lambda: llm.num_speaking == 1 and "generator" in llm.held and len(llm.asked) == 1)
        threading.Timer(0.3, llm.release, ["generator"]).start()  # after the server was told to stop
    thread.join(30)
    assert answers[0].json()["answer"] == "Zavrazhye"
