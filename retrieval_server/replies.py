"""What a Flask application of ours reads and answers: JSON bodies within limits, JSON answers, errors in JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jointrag.config import ServerConfig
from retrieval_server.bodies import Body, Refused

if TYPE_CHECKING:
    from flask import Flask, Response

logger = logging.getLogger(__name__)


def read_body(config: ServerConfig, where_empty: bytes = b"") -> Body:
    """What the request that is being answered says."""
    from flask import request

    most = config.max_body_bytes
    if (request.content_length or 0) > most:
        raise Refused(413, f"a body of {request.content_length} bytes; {most} are read (server.max_body_bytes)")
    return Body(request.get_data(cache=False) or where_empty, config)


def json_reply(value: Any, status: int = 200) -> Response:
    from flask import Response

    return Response(json.dumps(value), status, content_type="application/json")


def plain_error(status: int, message: str) -> dict[str, Any]:
    return {"error": message}


def add_errors(app: Flask, as_json: Callable[[int, str], dict[str, Any]] = plain_error) -> None:
    """Whatever goes wrong is answered in JSON: what `as_json` makes of status and message."""
    from flask import request
    from werkzeug.exceptions import HTTPException

    @app.errorhandler(Refused)
    def refused(error: Refused) -> Response:
        response = json_reply(as_json(error.status, str(error)), error.status)
        if error.retry_after_s is not None:
            response.headers["Retry-After"] = str(error.retry_after_s)
        if error.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        return json_reply(as_json(status, f"{error.code} {error.name}: {error.description}"), status)

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        logger.exception("%s failed", request.path)
        return json_reply(as_json(500, f"{type(error).__name__}: {error}"), 500)
