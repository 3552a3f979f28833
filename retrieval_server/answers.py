"""Requests that come again, byte for byte, are answered with the bytes of the first answer, in front of Flask.

In RL the same questions are asked in every epoch. Once the models are out of the way, reading and writing JSON and
Flask itself are what a repeated query costs; this is several times faster. Only good answers are kept, with the index
they came from, and a request is only the same one if it carries the same token.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from jointrag.recently_used import RecentlyUsed

if TYPE_CHECKING:
    from retrieval_server.service import Service

NUM_QUERIES = "retrieval.num_queries"  # key of the WSGI environment: an endpoint sets it where its answer may be kept
_LARGEST_REQUEST = 2**16
_SHARE = 8  # an answer that takes more than an eighth of the room is not kept
Key = tuple[str, str, bytes]


class Answer(NamedTuple):
    headers: list[tuple[str, str]]
    body: bytes
    num_queries: int


class AnswerCache:
    """Safe for several threads; forgets the least recently used."""

    def __init__(self, num_bytes: int) -> None:
        self._largest = num_bytes // _SHARE
        self._answers = RecentlyUsed[Key, Answer](num_bytes, _size)

    def find(self, key: Key) -> Answer | None:
        return self._answers.find([key]).get(key)

    def add(self, key: Key, answer: Answer) -> None:
        if _size(key, answer) <= self._largest:
            self._answers.add({key: answer})


def _size(key: Key, answer: Answer) -> int:
    return len(key[2]) + len(answer.body) + 1000  # headers and the rest


class Remembering:
    """WSGI application around the Flask one."""

    def __init__(self, app: Callable[..., Iterable[bytes]], service: Service) -> None:
        self._app = app
        self._service = service

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = time.perf_counter()
        length = environ.get("CONTENT_LENGTH") or "0"
        if environ["REQUEST_METHOD"] != "POST" or self._service.state != "ready" or int(length) > _LARGEST_REQUEST:
            return self._app(environ, start_response)
        answers, path = self._service.served.answers, environ["PATH_INFO"]
        body = environ["wsgi.input"].read(int(length))
        key = (path, environ.get("HTTP_AUTHORIZATION", ""), body)
        if (known := answers.find(key)) is not None:
            metrics = self._service.metrics
            metrics.cache_hits.inc(known.num_queries)
            metrics.observe(path, 200, time.perf_counter() - started)
            start_response("200 OK", known.headers)
            return [known.body]

        environ["wsgi.input"] = io.BytesIO(body)
        said: list[Any] = []

        def keep_start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            said[:] = [status, headers]
            return start_response(status, headers, exc_info)

        parts = self._app(environ, keep_start)
        if said and said[0] == "200 OK" and (num_queries := environ.get(NUM_QUERIES)) is not None:
            with closing(cast(Any, parts)):
                content = b"".join(parts)
            answers.add(key, Answer(said[1], content, num_queries))
            return [content]
        return parts
