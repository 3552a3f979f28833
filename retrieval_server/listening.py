"""Waitress around the application: it stays answerable when full, says errors in JSON, and stops without a lost answer.

    listener = Listener(app, bound_socket, ServerConfig())
    listener.run()        # until another thread or a signal handler calls listener.stop()

Requests of monitors have threads of their own, so a server that works on slow requests is not taken for a dead one.
Those threads also say 503 to what does not fit the queue any more.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from jointrag.config import ServerConfig

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger(__name__)
FOR_MONITORS = frozenset(("/health", "/info", "/metrics"))
_MONITOR_THREADS = 2
_CONNECTIONS = 1000
_MIB = 2**20
_lane = threading.local()


def on_stop_signals(*stops: Callable[[], object]) -> None:
    """SIGTERM and Ctrl-C call each of `stops`, in order; asked twice, the process ends at once."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        if stopping.is_set():
            os._exit(1)
        stopping.set()
        for one in stops:
            one()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def is_overflow() -> bool:
    """Whether this thread is there for monitors only: it refuses everything else."""
    return getattr(_lane, "for_monitors", False)


class Listener:
    """Serves until it is stopped."""

    def __init__(self, app: Flask, bound: socket.socket, config: ServerConfig) -> None:
        """Listens from now on; `run` answers. Raises OSError when the port was taken meanwhile."""
        self.dropped = False  # whether `run` gave up on requests that took too long
        self._stopping = threading.Event()
        self._stop_timeout_s = config.stop_timeout_s
        self._lanes = _Lanes(config.num_threads, config.max_queued_queries)
        self._server: Any = create_server(
            app,
            _dispatcher=self._lanes,
            sockets=[bound],
            connection_limit=_CONNECTIONS,
            backlog=1024,
            asyncore_use_poll=True,  # select() takes no file descriptor above 1023
            # Somewhat larger bodies are read, so that the application can say what the limit is: a connection that is
            # closed on a client that still writes loses the answer.
            max_request_body_size=4 * config.max_body_bytes,
            inbuf_overflow=config.max_body_bytes + 1,  # no temporary files
            outbuf_overflow=64 * _MIB,
            outbuf_high_watermark=64 * _MIB,
        )
        self._server.channel_class = _Channel

    def run(self) -> None:
        """Answer; after `stop`, until what was under way is answered, stop_timeout_s at most."""
        loop, connections = self._server.asyncore.loop, self._server._map
        deadline = float("inf")
        while not (self._stopping.is_set() and (self._is_idle() or time.monotonic() > deadline)):
            loop(timeout=0.05 if self._stopping.is_set() else 1, use_poll=True, map=connections, count=1)
            if self._stopping.is_set() and deadline == float("inf"):
                deadline = time.monotonic() + self._stop_timeout_s
        self.dropped = not self._is_idle()
        if self.dropped:
            logger.warning("requests that took longer than %g s were dropped", self._stop_timeout_s)
        self._lanes.shutdown(timeout=0.2)
        self._server.asyncore.close_all(connections)

    def stop(self) -> None:
        """From a signal handler or another thread."""
        self._stopping.set()
        with suppress(OSError):  # `run` may have ended already
            self._server.pull_trigger()

    def _is_idle(self) -> bool:
        return not any(one.requests or one.total_outbufs_len for one in list(self._server.active_channels.values()))


class _Lanes(ThreadedTaskDispatcher):
    """Waitress's threads, and some more for monitors and for saying no."""

    def __init__(self, num_threads: int, max_waiting: int) -> None:
        super().__init__()
        self._max_waiting = max_waiting
        self._monitors = _MonitorThreads()
        self.set_thread_count(num_threads)
        self._monitors.set_thread_count(_MONITOR_THREADS)

    def add_task(self, task: Any) -> None:
        request = task.requests[0]
        if request.error or request.path in FOR_MONITORS or len(self.queue) >= self._max_waiting:
            self._monitors.add_task(task)
        else:
            super().add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: Any = 5) -> bool:
        self._monitors.shutdown(cancel_pending, timeout)
        return super().shutdown(cancel_pending, timeout)


class _MonitorThreads(ThreadedTaskDispatcher):
    def handler_thread(self, thread_no: int) -> None:
        _lane.for_monitors = True
        super().handler_thread(thread_no)


class _JsonErrorTask(ErrorTask):
    """The answer to what is no HTTP, or too large to be read."""

    request: Any
    response_headers: Any

    def execute(self) -> None:
        error = self.request.error
        body = json.dumps({"error": f"{error.code} {error.reason}: {error.body}"}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    error_task_class = _JsonErrorTask
