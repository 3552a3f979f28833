"""Clients of a retrieval server that take next to nothing from its cores: one thread, bare sockets.

    python -m benchmarks.serve_load URL PATH --clients 32 < BODIES

BODIES are lines of JSON, one request each. Every client has a connection of its own and sends its next request once it
has the answer to the last; the answers are counted, not read. Prints {"seconds", "latencies_s", "statuses"}.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit


class Client:
    """One connection with at most one request under way."""

    def __init__(self, host: str, port: int, head: str) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = head
        self._left = -1  # bytes of the answer still to come; -1: its head is not complete
        self._received = b""
        self.status = 0
        self.sent_at = 0.0

    def send(self, body: bytes) -> None:
        self._left, self._received = -1, b""
        self.sent_at = time.perf_counter()
        self.socket.sendall(f"{self._head}{len(body)}\r\n\r\n".encode() + body)

    def receive(self) -> bool:
        """Whether the answer is complete now."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        if self._left >= 0:
            self._left -= len(data)
        else:
            self._received += data
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if found:
                self.status = int(head.split(maxsplit=2)[1])
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
                self._left = int(fields[b"content-length"]) - len(rest)
        return self._left == 0


def load(url: str, path: str, bodies: list[bytes], num_clients: int) -> dict[str, object]:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    clients = [Client(parts.hostname, parts.port, head) for _ in range(min(num_clients, len(bodies)))]
    waiting: Iterator[bytes] = iter(bodies)
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    with selectors.DefaultSelector() as selector:
        started = time.perf_counter()
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send(next(waiting))
        while len(latencies) < len(bodies):
            for key, _ in selector.select():
                client = key.data
                if not client.receive():
                    continue
                latencies.append(time.perf_counter() - client.sent_at)
                statuses[client.status] += 1
                if (body := next(waiting, None)) is not None:
                    client.send(body)
        seconds = time.perf_counter() - started
    for client in clients:
        client.socket.close()
    return {"seconds": seconds, "latencies_s": latencies, "statuses": dict(statuses)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("path")
    parser.add_argument("--clients", type=int, default=32)
    given = parser.parse_args()
    bodies = [line.strip() for line in sys.stdin.buffer if line.strip()]
    print(json.dumps(load(given.url, given.path, bodies, given.clients)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
