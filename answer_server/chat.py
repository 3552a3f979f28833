"""Chat completions as OpenAI has them, so that existing chat front ends can use a trained system.

The question is the last message of the user; the agents know nothing of what was said before. Sampling settings are
taken and not used: answers are greedy, as in evaluation. Citations are there in four places, since front ends look in
different ones:

    message.content               the answer, then numbers of the passages it was read from, then these passages;
                                  "citations": false in the request leaves the answer alone
    message.annotations           url_citation for each number; the address leads to the passage on this server
    message.reasoning_content     what the agents said on the way
    citations                     beside choices: {"number", "id", "title", "text"} of the passages read
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jointrag.asking import Part, System
from jointrag.types import Passage
from retrieval_server.bodies import Body, Refused

_STARTED = int(time.time())
_SHOWN_CHARACTERS = 240  # of a passage, below the answer
_NO_ANSWER = "(no answer)"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants."""

    model: str | None
    question: str
    stream: bool
    with_usage: bool
    with_citations: bool


def read(body: Body) -> Asked:
    """Raises Refused for what is no such request, or asks for something that a chain cannot do."""
    messages = body.value("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "'messages' is not a list of at least one message")
    for position, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused(400, f"messages[{position}] is not an object with a role and a content")
    spoken = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not spoken:
        raise Refused(400, "there is no message of the user: the last one is the question")
    question = _text(f"messages[{spoken[-1]}].content", messages[spoken[-1]].get("content"))
    if body.value("n") not in (None, 1) or body.value("n") is True:
        raise Refused(400, "'n' is not 1: a greedy answer is always the same")
    options = body.value("stream_options")
    if options is not None and not isinstance(options, dict):
        raise Refused(400, "'stream_options' is not an object")
    body.check_text("the question", question)
    if not question.strip():
        raise Refused(400, "the question is empty")
    return Asked(
        model=body.text("model"),
        question=question.strip(),
        stream=body.flag("stream", False),
        with_usage=bool((options or {}).get("include_usage")),
        with_citations=body.flag("citations", True),
    )


def _text(name: str, content: Any) -> str:
    """A message's content: a string, or parts of which all are texts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Refused(400, f"{name} is neither a string nor a list of parts")
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Refused(400, f"{name}: only parts of type text can be read")
        texts.append(part["text"])
    return "\n".join(texts)


def model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "jointrag"}


_TYPES = {404: ("invalid_request_error", "model_not_found"), 503: ("server_error", "server_busy")}


def error(status: int, message: str) -> dict[str, Any]:
    kind, code = _TYPES.get(status, ("invalid_request_error" if status < 500 else "server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# ---- answers ---------------------------------------------------------------------------------------------------------


def completion(asked: Asked, system: System, parts: Sequence[Part], last: Part, passages_url: str) -> dict[str, Any]:
    """The whole answer. `passages_url`: what the quoted id of a passage is put behind."""
    written = _Written(asked, last, passages_url)
    message = {
        "role": "assistant",
        "content": written.content,
        "refusal": None,
        "annotations": written.annotations,
        "reasoning_content": "".join(_told(parts, i) for i in range(len(parts))),
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": _id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": system.name,
        "choices": [choice],
        "usage": _usage(last),
        "citations": written.citations,
    }


def stream(asked: Asked, system: System, parts: Iterator[Part], passages_url: str) -> Iterator[str]:
    """The same as server-sent events: what the agents say, then the answer, then the citations."""
    shared = {"id": _id(), "object": "chat.completion.chunk", "created": int(time.time()), "model": system.name}
    usage: dict[str, Any] = {"usage": None} if asked.with_usage else {}

    def chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**shared, "choices": [choice], **usage, **more})

    yield chunk({"role": "assistant", "content": ""})
    spoken: list[Part] = []
    for part in parts:
        spoken.append(part)
        if told := _told(spoken, len(spoken) - 1):
            yield chunk({"reasoning_content": told})
    written = _Written(asked, spoken[-1], passages_url)
    yield chunk({"content": written.content, "annotations": written.annotations})
    yield chunk({}, "stop", citations=written.citations)
    if asked.with_usage:
        yield _event({**shared, "choices": [], "usage": _usage(spoken[-1])})
    yield "data: [DONE]\n\n"


def broken_off(status: int, message: str) -> str:
    return _event(error(status, message))


class _Written:
    """The answer as a text with citations."""

    def __init__(self, asked: Asked, last: Part, passages_url: str) -> None:
        episode = last.episode
        read = [(i + 1, passage) for i, passage in enumerate(episode.candidates) if last.is_read(i)]
        self.citations = [{"number": n, "id": p.id, "title": p.title, "text": p.text} for n, p in read]
        self.annotations: list[dict[str, Any]] = []
        self.content = episode.answer
        if not asked.with_citations:
            return
        self.content = (episode.answer or _NO_ANSWER) + (" " if read else "")
        for number, passage in read:
            start = len(self.content)
            self.content += f"[{number}]"
            place = {"start_index": start, "end_index": len(self.content)}
            where = {"title": passage.title or passage.id, "url": passages_url + quote(passage.id, safe="")}
            self.annotations.append({"type": "url_citation", "url_citation": {**place, **where}})
        self.content += "".join(f"\n\n[{number}] {_shortened(passage)}" for number, passage in read)


def _told(parts: Sequence[Part], i: int) -> str:
    """What the agent of part `i` did, but for the answer."""
    part, episode = parts[i], parts[i].episode
    lines = [] if part.is_done else [f"{part.agent}: {episode.turns[-1].response or '(nothing)'}"]
    if part.is_retrieved and not (i and parts[i - 1].is_retrieved):
        found = [f"[{n}] {_shortened(passage)}" for n, passage in enumerate(episode.candidates, 1)]
        lines += ["found:", *(found or ["(nothing)"])]
    return "".join(f"{line}\n" for line in lines)


def _shortened(passage: Passage) -> str:
    text = " ".join(passage.text.split())
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS].rsplit(" ", 1)[0] + " …"
    return f"{passage.title}: {text}" if passage.title else text


def _usage(last: Part) -> dict[str, int]:
    """Tokens of all agents; none are known of a served model."""
    read = sum(len(turn.prompt_ids) for turn in last.episode.turns)
    written = sum(len(turn.response_ids) for turn in last.episode.turns)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"
