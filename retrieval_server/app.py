"""The Flask application: what it answers and how it refuses.

POST /v1/search  {"queries": [str], "k": int} -> {"results": [[{"id", "title", "text", "score"}]]}
POST /search     {"questions": [str], "N": int} -> [{"question": str, "top_k_docs": ["title\\ntext"]}], as in MMOA-RAG
GET  /health     {"status": "ready"}
GET  /info       fingerprints, sizes, process id
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jointrag.retrieval import Retriever
from jointrag.types import Hit

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger(__name__)


class BadRequest(ValueError):
    """The body is not what the endpoint takes; answered with 400 and the message."""


def create_app(retriever: Retriever, info: Mapping[str, object]) -> Flask:
    """The application over a loaded `retriever` that several threads may use (see `Batcher`)."""
    from flask import Flask, jsonify, request
    from werkzeug.exceptions import HTTPException

    app = Flask("retrieval_server")
    app.json.sort_keys = False  # type: ignore[attr-defined]

    @app.post("/v1/search")
    def v1_search() -> Any:
        queries, k = _read_body(request.get_data(), "queries", "k")
        results = retriever.search(queries, k)
        return jsonify(results=[[_row(hit) for hit in hits] for hits in results])

    @app.post("/search")
    def search() -> Any:
        questions, k = _read_body(request.get_data(), "questions", "N")
        results = retriever.search(questions, k)
        return jsonify(
            [
                {"question": question, "top_k_docs": [f"{hit.passage.title}\n{hit.passage.text}" for hit in hits]}
                for question, hits in zip(questions, results, strict=True)
            ]
        )

    @app.get("/health")
    def health() -> Any:
        return jsonify(status="ready")

    @app.get("/info")
    def show_info() -> Any:
        return jsonify(dict(info))

    @app.errorhandler(BadRequest)
    def bad_request(error: BadRequest) -> Any:
        return jsonify(error=str(error)), 400

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Any:
        return jsonify(error=f"{error.code} {error.name}: {error.description}"), error.code

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Any:
        logger.exception("%s failed", request.path)
        return jsonify(error=f"{type(error).__name__}: {error}"), 500

    return app


def _row(hit: Hit) -> dict[str, object]:
    return {"id": hit.passage.id, "title": hit.passage.title, "text": hit.passage.text, "score": hit.score}


def _read_body(raw: bytes, queries_key: str, count_key: str) -> tuple[list[str], int]:
    """The queries and the number of passages of a request. Any content type will do, as long as it is JSON."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadRequest(f"the body is not an object with {queries_key!r} and {count_key!r}")
    for key in (queries_key, count_key):
        if key not in body:
            raise BadRequest(f"{key!r} is missing")
    queries, count = body[queries_key], body[count_key]
    if not isinstance(queries, list):
        raise BadRequest(f"{queries_key!r} is not a list of strings")
    for position, query in enumerate(queries):
        if not isinstance(query, str):
            raise BadRequest(f"{queries_key}[{position}] is not a string")
        try:
            query.encode()
        except UnicodeEncodeError:  # half a surrogate pair, written as an escape
            raise BadRequest(f"{queries_key}[{position}] is not valid Unicode") from None
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise BadRequest(f"{count_key!r} is not a whole number of at least 1")
    return queries, count
