"""The Flask application: what it answers and how it refuses.

POST /v1/search  {"queries": [str], "k": int} -> {"results": [[{"id", "title", "text", "score"}]]}
                 optional: "min_score", "max_results" (per query), "texts": false leaves the texts out
POST /search     {"questions": [str], "N": int} -> [{"question": str, "top_k_docs": ["title\\ntext"]}], as in MMOA-RAG
POST /retrieve   {"queries": [str], "topk": int, "return_scores": bool} -> {"result": [[{"document", "score"}]]}, as in
                 Search-R1; a document is {"id", "contents": '"title"\\ntext'}; without return_scores documents only
POST /rerank     {"query": str, "texts": [str]} -> [{"index", "score"}], best first, as in text-embeddings-inference
                 optional: "raw_scores" (not between 0 and 1), "return_text"
POST /v1/reload  {"index": str, "wait": bool}, both optional: open an index folder and serve it from then on
GET  /health     {"status": "ready"}; 503 while starting and stopping
GET  /info       fingerprints, sizes, recall where it was measured, generation of the index, process id
GET  /metrics    for Prometheus

An error is {"error": why}. With a token, everything but /health wants it as `Authorization: Bearer`.
"""

from __future__ import annotations

import hmac
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jointrag.types import Hit
from retrieval_server.answers import NUM_QUERIES, Remembering
from retrieval_server.bodies import Refused
from retrieval_server.listening import FOR_MONITORS, is_overflow
from retrieval_server.metrics import CONTENT_TYPE
from retrieval_server.replies import add_errors, json_reply, read_body
from retrieval_server.service import Service

if TYPE_CHECKING:
    from flask import Flask, Response

_SEARCH_R1_TOPK = 3  # what Search-R1's server takes where a client does not say


def create_app(service: Service, token: str | None = None) -> Flask:
    """The application; requests without `token`, where there is one, are refused."""
    from flask import Flask

    app = Flask("retrieval_server")
    app.wsgi_app = Remembering(app.wsgi_app, service)  # type: ignore[method-assign]
    _watch_requests(app, service, token)
    _add_searches(app, service)
    _add_reload(app, service, has_token=token is not None)
    _add_monitoring(app, service)
    add_errors(app)
    return app


def _watch_requests(app: Flask, service: Service, token: str | None) -> None:
    """Who is let in, and what is counted."""
    from flask import g, request

    @app.before_request
    def admit() -> None:
        g.started = time.perf_counter()
        if token is not None and request.path != "/health":
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), token.encode()):
                raise Refused(401, "this server wants a token, as the header Authorization: Bearer TOKEN")
        if is_overflow() and request.path not in FOR_MONITORS:
            raise Refused(503, "too many requests are waiting (server.max_queued_queries); ask again later", 1)

    @app.after_request
    def count(response: Response) -> Response:
        rule = request.url_rule  # the path of a request for nothing could be anything: it is no label
        endpoint = rule.rule if rule is not None else "other"
        service.metrics.observe(endpoint, response.status_code, time.perf_counter() - g.started)
        return response


def _add_searches(app: Flask, service: Service) -> None:
    from flask import request

    def find(queries: list[str], k: int) -> list[list[Hit]]:
        request.environ[NUM_QUERIES] = len(queries)
        return service.search(queries, k)

    @app.post("/v1/search")
    def v1_search() -> Response:
        asked = read_body(service.config)
        queries, k = asked.queries("queries"), asked.k("k")
        min_score, most = asked.number("min_score"), asked.k("max_results", default=k)
        with_text = asked.flag("texts", True)
        results = [
            [_row(hit, with_text) for hit in hits if min_score is None or hit.score >= min_score][:most]
            for hits in find(queries, k)
        ]
        return json_reply({"results": results})

    @app.post("/search")
    def search() -> Response:
        asked = read_body(service.config)
        questions, k = asked.queries("questions"), asked.k("N")
        results = find(questions, k)
        return json_reply(
            [
                {"question": question, "top_k_docs": [f"{hit.passage.title}\n{hit.passage.text}" for hit in hits]}
                for question, hits in zip(questions, results, strict=True)
            ]
        )

    @app.post("/retrieve")
    def retrieve() -> Response:
        asked = read_body(service.config)
        queries, k = asked.queries("queries"), asked.k("topk", default=_SEARCH_R1_TOPK)
        with_scores = asked.flag("return_scores", False)
        return json_reply({"result": [[_document(hit, with_scores) for hit in hits] for hits in find(queries, k)]})

    @app.post("/rerank")
    def rerank() -> Response:
        asked = read_body(service.config)
        query, texts = asked.query("query"), asked.strings("texts")
        raw, with_text = asked.flag("raw_scores", False), asked.flag("return_text", False)
        if not service.has_reranker:
            raise Refused(424, "no reranker is loaded; start the server with --reranker MODEL")
        ranked = service.rerank(query, texts, normalize=not raw)
        return json_reply(
            [{"index": i, "score": score} | ({"text": texts[i]} if with_text else {}) for i, score in ranked]
        )


def _add_reload(app: Flask, service: Service, *, has_token: bool) -> None:
    @app.post("/v1/reload")
    def reload() -> Response:
        if not has_token:
            raise Refused(403, "only a server with a token takes this; send its process SIGHUP instead")
        asked = read_body(service.config, where_empty=b"{}")
        path, wait = asked.text("index"), asked.flag("wait", False)
        state = service.reload(Path(path) if path else None, wait=wait)
        return json_reply(state, {"loading": 202, "failed": 422}.get(str(state["status"]), 200))


def _add_monitoring(app: Flask, service: Service) -> None:
    @app.get("/health")
    def health() -> Response:
        state = service.state
        return json_reply({"status": state}, 200 if state == "ready" else 503)

    @app.get("/info")
    def info() -> Response:
        if service.state == "starting":
            raise Refused(503, "the retrieval server is starting", 2)
        return json_reply(service.info())

    @app.get("/metrics")
    def metrics() -> Response:
        return app.response_class(service.metrics.text(), content_type=CONTENT_TYPE)


def _row(hit: Hit, with_text: bool) -> dict[str, object]:
    text = {"text": hit.passage.text} if with_text else {}
    return {"id": hit.passage.id, "title": hit.passage.title, **text, "score": hit.score}


def _document(hit: Hit, with_score: bool) -> dict[str, object]:
    document: dict[str, object] = {"id": hit.passage.id, "contents": f'"{hit.passage.title}"\n{hit.passage.text}'}
    return {"document": document, "score": hit.score} if with_score else document
