"""What a request's body may be. Anything else is `Refused`, with a status of 4xx and the reason."""

from __future__ import annotations

import json
import math
from typing import Any

from jointrag.config import ServerConfig


class Refused(Exception):
    """The answer is an error with this status; with `retry_after_s`, asking again later may help."""

    def __init__(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class Body:
    """A JSON object, whose fields are read one by one. Any content type will do; unknown fields are ignored."""

    def __init__(self, raw: bytes, config: ServerConfig) -> None:
        try:
            fields = json.loads(raw)
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None
        if not isinstance(fields, dict):
            raise Refused(400, "the body is not an object")
        self._fields: dict[str, Any] = fields
        self._config = config

    def queries(self, key: str) -> list[str]:
        """A list of strings within the limits of number and length."""
        queries = self.strings(key)
        for position, query in enumerate(queries):
            self._check_length(f"{key}[{position}]", query)
        return queries

    def query(self, key: str) -> str:
        query = self._required(key)
        self.check_text(repr(key), query)
        return query

    def check_text(self, name: str, value: Any) -> None:
        """Raises Refused for anything but a string within the limit of length."""
        _check_string(name, value)
        self._check_length(name, value)

    def value(self, key: str) -> Any:
        """Whatever is there; None where it is missing."""
        return self._fields.get(key)

    def strings(self, key: str) -> list[str]:
        """A list of strings, within the limit of number."""
        texts = self._required(key)
        if not isinstance(texts, list):
            raise Refused(400, f"{key!r} is not a list of strings")
        if len(texts) > (most := self._config.max_queries_per_request):
            raise Refused(413, f"{len(texts)} {key}; a request may have {most} (server.max_queries_per_request)")
        for position, text in enumerate(texts):
            _check_string(f"{key}[{position}]", text)
        return texts

    def k(self, key: str, default: int | None = None) -> int:
        """How many passages per query; `default` where it is missing or null, for those that may leave it out."""
        count = self._fields.get(key) if default is not None else self._required(key)
        if count is None and default is not None:
            return default
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise Refused(400, f"{key!r} is not a whole number of at least 1")
        if count > self._config.max_k:
            raise Refused(400, f"{key!r} is more than {self._config.max_k} (server.max_k)")
        return count

    def flag(self, key: str, default: bool) -> bool:
        value = self._fields.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise Refused(400, f"{key!r} is neither true nor false")
        return value

    def number(self, key: str) -> float | None:
        """None where it is missing."""
        value = self._fields.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(400, f"{key!r} is not a number")
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number of hundreds of digits
            finite = False
        if not finite:
            raise Refused(400, f"{key!r} is not a finite number")
        return float(value)

    def text(self, key: str) -> str | None:
        """None where it is missing."""
        value = self._fields.get(key)
        if value is not None:
            _check_string(repr(key), value)
        return value

    def _required(self, key: str) -> Any:
        if key not in self._fields:
            raise Refused(400, f"{key!r} is missing")
        return self._fields[key]

    def _check_length(self, name: str, query: str) -> None:
        if len(query) > (most := self._config.max_query_characters):
            raise Refused(413, f"{name} has {len(query)} characters; {most} are read (server.max_query_characters)")


def _check_string(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise Refused(400, f"{name} is not a string")
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, written as an escape
        raise Refused(400, f"{name} is not valid Unicode") from None
