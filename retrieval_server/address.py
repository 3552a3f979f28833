"""The address a server listens on."""

from __future__ import annotations

import socket

_LAST_PORT = 65_535


def bind(host: str, port: int, server: str = "retrieval server") -> socket.socket:
    """A socket bound to the address; port 0 takes a free one. Raises ValueError naming the port when it is
    taken, or none."""
    if not 0 <= port <= _LAST_PORT:
        raise ValueError(f"the {server} cannot listen on port {port}; choose one from 0 (any free one) to {_LAST_PORT}")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server killed a moment ago left connections behind
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise cannot_listen(host, port, error, server) from None
    return bound


def cannot_listen(host: str, port: int, error: OSError, server: str = "retrieval server") -> ValueError:
    setting = "server.port, or --port" if server == "retrieval server" else "--port"
    return ValueError(
        f"the {server} cannot listen on {host}:{port} ({error.strerror}); choose another port ({setting}; 0 takes any "
        "free one) or stop what listens there"
    )
