"""The retrieval server's client: a `Retriever` (jointrag.retrieval) over HTTP.

    retriever = HttpRetriever("http://127.0.0.1:8000")
    hits = retriever.search(sub_questions, k=10)      # list[list[Hit]], best first

A server that works on something slow (a reranker on a CPU takes minutes) is waited for, one that is gone is not: while
an answer is late the client asks /health, on another connection, and gives up once nothing was heard for `timeout_s`.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from jointrag.recently_used import RecentlyUsed
from jointrag.types import Hit, Passage

logger = logging.getLogger(__name__)
TOKEN_VARIABLE = "JOINTRAG_SERVER_TOKEN"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_LONGEST_WAIT_S = 30.0  # however long the server says to wait
_ASK_HEALTH_EVERY_S = 5.0
_IDLE_CONNECTIONS = 16


class RetrieverUnavailable(ConnectionError):
    """The retrieval server did not answer for as long as was agreed to wait."""


class _NoAnswer(Exception):
    """This try came to nothing: the connection failed, or the server was silent for too long."""


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    retry_after: str | None
    body: bytes


class HttpRetriever:
    """Client of the retrieval server's /v1/search, for several threads.

    A query asked before is answered from memory: the index does not change under a run. While the server cannot be
    reached (it is restarted when it dies) or says 503, requests are repeated; other errors are raised at once.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 60.0,
        cache_size: int = 50_000,
        *,
        answer_timeout_s: float = 3600.0,
        max_queries: int = 256,
        token: str | None = None,
    ) -> None:
        """`timeout_s`: how long the server may give no sign of life. `answer_timeout_s`: how long a server that is
        alive may take for a request, refusing it with 503 included. `max_queries`: of a request; more are split.
        `token`: by itself that of the environment variable JOINTRAG_SERVER_TOKEN, if there is one."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a retrieval server, as http://127.0.0.1:8000 is one")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._max_queries = max_queries
        self._path = parts.path.rstrip("/")
        self._host, self._port = parts.hostname, parts.port
        self._connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._headers = {"Content-Type": "application/json"}
        if token := token or os.environ.get(TOKEN_VARIABLE):
            self._headers["Authorization"] = f"Bearer {token}"
        self._known = RecentlyUsed[tuple[str, int], list[Hit]](cache_size)
        self._idle: list[HTTPConnection] = []
        self._lock = threading.Lock()

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever`.

        Raises RetrieverUnavailable; ValueError for a request that the server refuses, RuntimeError for one it fails on.
        """
        known = self._known.find((query, k) for query in queries)
        found = {query: hits for (query, _), hits in known.items()}
        missing = [query for query in dict.fromkeys(queries) if query not in found]
        for start in range(0, len(missing), self._max_queries):
            asked = missing[start : start + self._max_queries]
            fresh = dict(zip(asked, self._ask(asked, k), strict=True))
            found |= fresh
            self._known.add({(query, k): hits for query, hits in fresh.items()})
        return [list(found[query]) for query in queries]

    def _ask(self, queries: list[str], k: int) -> list[list[Hit]]:
        response = self._post(json.dumps({"queries": queries, "k": k}).encode())
        if response.status != 200:
            error = ValueError if response.status < 500 else RuntimeError
            said = response.body[:500].decode(errors="replace")
            raise error(f"{self.url}/v1/search answered {response.status}: {said}")
        try:
            return [
                [Hit(Passage(hit["id"], hit["title"], hit["text"]), hit["score"]) for hit in hits]
                for hits in json.loads(response.body)["results"]
            ]
        except (ValueError, KeyError, TypeError):
            said = response.body[:200].decode(errors="replace")
            raise RuntimeError(f"{self.url}/v1/search is not answered by a retrieval server: {said!r}") from None

    # ---- trying again ------------------------------------------------------------------------------------------------

    def _post(self, body: bytes) -> _Response:
        """Whatever the server answers but 503."""
        started = heard = time.monotonic()
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                response = self._try(body, heard + self.timeout_s, started + self._answer_timeout_s)
            except _NoAnswer as error:
                if time.monotonic() + pause_s >= heard + self.timeout_s:
                    raise self._unavailable(
                        f"gave no sign of life for {self.timeout_s:g} s ({error}); is it running? Its log says why it "
                        "stopped. Where it only starts slowly a larger timeout_s helps"
                    ) from error
                problem, wait_s = "cannot be reached", pause_s
            else:
                if response.status != 503:
                    return response
                heard = time.monotonic()
                problem, wait_s = f"says {_reason(response)}", max(pause_s, _seconds(response.retry_after))
            if time.monotonic() + wait_s >= started + self._answer_timeout_s:
                raise self._unavailable(f"{problem}, for {self._answer_timeout_s:g} s (answer_timeout_s)")
            if pause_s == _FIRST_PAUSE_S:
                logger.warning("retrieval server at %s %s; trying again", self.url, problem)
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _unavailable(self, what: str) -> RetrieverUnavailable:
        return RetrieverUnavailable(f"the retrieval server at {self.url} {what}")

    def _try(self, body: bytes, silent_until: float, answer_until: float) -> _Response:
        connection, was_used = self._take()
        try:
            try:
                response = self._exchange(connection, body, silent_until, answer_until)
            except _NoAnswer:
                if not was_used:
                    raise
                # the server closed it while nobody used it, which says nothing about the server
                connection.close()
                connection = self._new()
                response = self._exchange(connection, body, silent_until, answer_until)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if connection.sock is not None and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append(connection)
                return response
        connection.close()
        return response

    def _exchange(self, connection: HTTPConnection, body: bytes, silent_until: float, answer_until: float) -> _Response:
        try:
            connection.timeout = max(0.05, silent_until - time.monotonic())
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            connection.request("POST", f"{self._path}/v1/search", body, self._headers)
            assert connection.sock is not None
            self._wait(connection, silent_until, answer_until)
            connection.sock.settimeout(self.timeout_s)  # between two parts of an answer that has begun
            response = connection.getresponse()
            return _Response(response.status, response.getheader("Retry-After"), response.read())
        except (OSError, HTTPException) as error:
            raise _NoAnswer(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error

    def _wait(self, connection: HTTPConnection, silent_until: float, answer_until: float) -> None:
        """Until the answer begins. A late one is waited for as long as /health is answered."""
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        while True:
            now = time.monotonic()
            if now >= answer_until:
                raise self._unavailable(f"is alive and took {self._answer_timeout_s:g} s (answer_timeout_s)")
            if now >= silent_until:
                raise _NoAnswer("no answer, and none from /health either")
            wait_s = min(_ASK_HEALTH_EVERY_S, (silent_until - now) / 2 + 0.01, answer_until - now)
            if poll.poll(1000 * wait_s):
                return
            if self._is_alive(silent_until):
                silent_until = time.monotonic() + self.timeout_s

    def _is_alive(self, until: float) -> bool:
        """Whether the server answers anything at all by then."""
        connection = self._new()
        connection.timeout = min(_ASK_HEALTH_EVERY_S, max(0.05, until - time.monotonic()))
        try:
            connection.request("GET", f"{self._path}/health")
            connection.getresponse().read()
            return True
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    # ---- connections -------------------------------------------------------------------------------------------------

    def _take(self) -> tuple[HTTPConnection, bool]:
        """A connection, and whether it was used before."""
        with self._lock:
            if self._idle:
                return self._idle.pop(), True
        return self._new(), False

    def _new(self) -> HTTPConnection:
        return self._connection_class(self._host, self._port)


def _seconds(retry_after: str | None) -> float:
    """0 where the server names no time, or a date."""
    try:
        return min(max(0.0, float(retry_after or 0)), _LONGEST_WAIT_S)
    except ValueError:
        return 0.0


def _reason(response: _Response) -> str:
    return f"503: {response.body[:200].decode(errors='replace')}"
