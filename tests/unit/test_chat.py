"""Chat completions: what requests may be, and where the citations are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from answer_server import chat
from jointrag.asking import ask
from jointrag.config import ServerConfig
from retrieval_server.bodies import Body, Refused
from tests.asking import PASSAGES, QUESTION, SAID, Scripted, system

USER = {"role": "user", "content": QUESTION}
URL = "http://host/passages/"


def read(**fields: Any) -> chat.Asked:
    return chat.read(Body(json.dumps(fields).encode(), ServerConfig(max_query_characters=100)))


def test_the_last_message_of_the_user_is_the_question() -> None:
    asked = read(
        model="mappo",
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "an earlier one"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "Where"}, {"type": "text", "text": "is it?"}]},
            {"role": "assistant", "content": "Well,"},
        ],
        temperature=0.7,
        tools=[],
        n=1,
    )
    assert (asked.model, asked.question) == ("mappo", "Where\nis it?")
    assert not asked.stream and not asked.with_usage and asked.with_citations
    asked = read(messages=[USER], stream=True, stream_options={"include_usage": True}, citations=False)
    assert asked.stream and asked.with_usage and not asked.with_citations and asked.model is None


@pytest.mark.parametrize(
    "fields, why",
    [
        ({}, "'messages' is not a list"),
        ({"messages": []}, "'messages' is not a list"),
        ({"messages": ["hello"]}, r"messages\[0\] is not an object"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\] is not an object with a role"),
        ({"messages": [{"role": "system", "content": "x"}]}, "no message of the user"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]\.content is neither"),
        ({"messages": [USER, {"role": "user", "content": 3}]}, r"messages\[1\]\.content is neither"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only parts of type text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "only parts of type text"),
        ({"messages": [{"role": "user", "content": "  "}]}, "the question is empty"),
        ({"messages": [{"role": "user", "content": []}]}, "the question is empty"),
        ({"messages": [{"role": "user", "content": "x" * 101}]}, "the question has 101 characters"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "not valid Unicode"),
        ({"messages": [USER], "n": 2}, "'n' is not 1"),
        ({"messages": [USER], "n": True}, "'n' is not 1"),
        ({"messages": [USER], "stream": "yes"}, "'stream' is neither"),
        ({"messages": [USER], "stream_options": []}, "'stream_options' is not an object"),
        ({"messages": [USER], "model": 3}, "'model' is not a string"),
    ],
)
def test_anything_else_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why) as error:
        read(**fields)
    assert 400 <= error.value.status < 500


def completed(said: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    asked = system("mappo", Scripted(SAID | (said or {})))
    parts = list(ask(asked, QUESTION))
    return chat.completion(read(messages=[USER], **fields), asked, parts, parts[-1], URL)


def test_citations_are_numbers_behind_the_answer_and_passages_below() -> None:
    made = completed()
    message = made["choices"][0]["message"]
    assert message["content"].startswith("Zavrazhye [1][3]\n\n[1] Solaris: Solaris is a film")
    assert [one["id"] for one in made["citations"]] == ["films/1", "people/7"]
    for annotation, number in zip(message["annotations"], (1, 3), strict=True):
        cited = annotation["url_citation"]
        assert message["content"][cited["start_index"] : cited["end_index"]] == f"[{number}]"
        assert cited["title"] == PASSAGES[number - 1].title
    assert message["annotations"][0]["url_citation"]["url"] == "http://host/passages/films%2F1"
    assert message["reasoning_content"].startswith("rewriter: Who directed Solaris?\n")
    assert "found:\n[1] Solaris: " in message["reasoning_content"]
    assert message["reasoning_content"].endswith("selector: Document0,Document2\n")
    assert made["usage"] == {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}


def test_the_answer_alone() -> None:
    made = completed(citations=False)
    assert made["choices"][0]["message"]["content"] == "Zavrazhye"
    assert made["choices"][0]["message"]["annotations"] == [] and len(made["citations"]) == 2


def test_no_answer_and_nothing_read() -> None:
    message = completed({"selector": "", "generator": ""})["choices"][0]["message"]
    assert message["content"] == "(no answer)" and message["annotations"] == []


def test_the_stream_says_the_same() -> None:
    asked = system()
    request = read(messages=[USER], stream=True, stream_options={"include_usage": True})
    events = list(chat.stream(request, asked, ask(asked, QUESTION), URL))
    assert events[-1] == "data: [DONE]\n\n"
    assert all(event.startswith("data: ") and event.endswith("\n\n") and event.count("\n") == 2 for event in events)
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    whole = completed()
    message = whole["choices"][0]["message"]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message["reasoning_content"]
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] == "stop"
    assert chunks[-2]["citations"] == whole["citations"]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1
