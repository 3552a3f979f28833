"""The Flask application: what it answers and how it refuses.

GET  /           a page to ask on
POST /ask        {"question": str} -> the whole chain; optional "checkpoint": str; "stream": true: a line of JSON after
                 every agent, each the chain so far (jointrag.asking.Part.to_dict), before them one with "waiting"
POST /v1/chat/completions, GET /v1/models    as OpenAI has them (answer_server/chat.py)
GET  /passages/ID    the text of a passage found lately: where citations lead
GET  /info       the run, its checkpoints and their agents, questions to try
GET  /health     {"status": "ready"}; 503 while stopping

An error is {"error": why}, below /v1 as OpenAI words it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from answer_server import chat
from answer_server.service import Service
from answer_server.turns import Place
from jointrag.asking import System
from jointrag.runs import CHECKPOINTS
from retrieval_server.bodies import Refused
from retrieval_server.listening import FOR_MONITORS, is_overflow
from retrieval_server.replies import add_errors, json_reply, plain_error, read_body

if TYPE_CHECKING:
    from flask import Flask, Request, Response

logger = logging.getLogger(__name__)
_PAGE = Path(__file__).parent / "page"
_FILES = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def create_app(service: Service, origins: Collection[str] = ()) -> Flask:
    """`origins`: of web pages elsewhere whose scripts may ask, as https://chat.example.org; "*" is any."""
    from flask import Flask, request

    app = Flask("answer_server", static_folder=None)

    @app.before_request
    def admit() -> None:
        if is_overflow() and request.path not in FOR_MONITORS:
            raise Refused(503, "too many requests are waiting; ask again later", 1)

    @app.after_request
    def secure(response: Response) -> Response:
        response.headers.update(_HEADERS)
        if origins:
            response.headers.update(_cross_origin(request, origins))
        return response

    _add_page(app)
    _add_ask(app, service)
    _add_chat(app, service)
    _add_monitoring(app, service)

    def error_as_json(status: int, message: str) -> dict[str, Any]:
        return (chat.error if request.path.startswith("/v1/") else plain_error)(status, message)

    add_errors(app, error_as_json)
    return app


def _cross_origin(request: Request, origins: Collection[str]) -> dict[str, str]:
    """What a browser has to be told before a page of another origin may ask, or read the answer."""
    origin = request.headers.get("Origin", "")
    if not origin or not ({origin, "*"} & set(origins)):
        return {"Vary": "Origin"}
    return {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, POST",
        "Access-Control-Allow-Headers": request.headers.get("Access-Control-Request-Headers", ""),
        "Access-Control-Expose-Headers": "Retry-After",
    }


def _add_page(app: Flask) -> None:
    contents = {name: (_PAGE / (name or "page.html")).read_bytes() for name in _FILES}

    def send(name: str) -> Response:
        return app.response_class(contents[name], content_type=f"{_FILES[name]}; charset=utf-8")

    for name in _FILES:
        app.add_url_rule(f"/{name}", f"page {name}", view_func=lambda name=name: send(name), methods=["GET"])


def _add_ask(app: Flask, service: Service) -> None:
    @app.post("/ask")
    def ask() -> Response:
        asked = read_body(service.config)
        question, stream = asked.query("question").strip(), asked.flag("stream", False)
        if not question:
            raise Refused(400, "the question is empty")
        system = service.system(asked.text("checkpoint"))
        place = service.queue(system)
        if stream:
            return _streamed(app, _parts(service, system, question, place), place, "application/x-ndjson")
        *_, last = service.answering(system, question, place)
        return json_reply(last.to_dict())


def _add_chat(app: Flask, service: Service) -> None:
    from flask import request

    @app.get("/v1/models")
    def models() -> Response:
        return json_reply({"object": "list", "data": [chat.model(name) for name in service.systems]})

    @app.get("/v1/models/<name>")
    def model(name: str) -> Response:
        return json_reply(chat.model(service.system(name).name))

    @app.post("/v1/chat/completions")
    def completions() -> Response:
        asked = chat.read(read_body(service.config))
        system = service.system(asked.model)
        passages = f"{request.host_url}passages/"
        place = service.queue(system)
        if asked.stream:
            chunks = chat.stream(asked, system, service.answering(system, asked.question, place), passages)
            return _streamed(app, _guarded(chunks, chat.broken_off), place, "text/event-stream")
        *_, last = parts = list(service.answering(system, asked.question, place))
        return json_reply(chat.completion(asked, system, parts, last, passages))

    @app.get("/passages/<path:id>")
    def passage(id: str) -> Response:
        found = service.passages.find([id]).get(id)
        if found is None:
            raise Refused(404, f"passage {id!r:.80} has not been found lately; ask the question again")
        return app.response_class(f"{found.title}\n\n{found.text}\n".lstrip(), content_type="text/plain; charset=utf-8")


def _add_monitoring(app: Flask, service: Service) -> None:
    @app.get("/health")
    def health() -> Response:
        return json_reply({"status": "stopping"}, 503) if service.is_stopping else json_reply({"status": "ready"})

    @app.get("/info")
    def info() -> Response:
        checkpoints = [
            {"name": system.name, "what": CHECKPOINTS.get(system.name, ""), "agents": system.agents}
            for system in service.systems.values()
        ]
        told = service.description
        return json_reply({"run": told.run, "checkpoints": checkpoints, "examples": list(told.examples)})


# ---- streams ---------------------------------------------------------------------------------------------------------


def _streamed(app: Flask, chunks: Iterator[str], place: Place, content_type: str) -> Response:
    """`place` is left even where nobody reads the first chunk."""
    response = app.response_class((chunk.encode() for chunk in chunks), content_type=f"{content_type}; charset=utf-8")
    response.headers["X-Accel-Buffering"] = "no"  # proxies pass every part on at once
    response.call_on_close(place.leave)
    return response


def _parts(service: Service, system: System, question: str, place: Place) -> Iterator[str]:
    def lines() -> Iterator[str]:
        yield _line({"checkpoint": system.name, "question": question, "waiting": place.num_before, "done": False})
        for part in service.answering(system, question, place):
            yield _line(part.to_dict())

    return _guarded(lines(), lambda status, why: _line({"error": why, "status": status, "done": True}))


def _guarded(chunks: Iterator[str], broken_off: Any) -> Iterator[str]:
    """What goes wrong after the answer has begun is its last chunk: the status has been sent."""
    try:
        yield from chunks
    except Refused as error:
        yield broken_off(error.status, str(error))
    except Exception as error:
        logger.exception("an answer broke off")
        yield broken_off(500, f"{type(error).__name__}: {error}")


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value) + "\n"
