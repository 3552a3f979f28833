"""The retrieval server as a process of its own, for as long as a `with` block lasts.

    with serving(config, index=Path("models/index"), log_path=Path("runs/1/server.log")) as server:
        HttpRetriever(server.url).search(["Who directed Solaris?"], k=10)

It is ready when the block starts and gone when it ends, however it ends: should this process be killed, the server ends
by itself. This process holds the listening socket, so a server that dies is started again, once, without a client
seeing a closed port: connections queue until the new one is ready.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from jointrag.config import ServerConfig
from retrieval_server.address import bind
from retrieval_server.options import settings
from retrieval_server.state import environment

logger = logging.getLogger(__name__)
_LONGER_S = 5.0  # than the server's own time to stop


@dataclass(frozen=True, slots=True)
class Reranking:
    """The model that puts what was found in order: a folder or a Hugging Face name."""

    model: str
    kind: str | None = None
    max_length: int | None = None
    num_retrieved: int = 50

    def options(self) -> Iterator[str]:
        """For `python -m retrieval_server`."""
        yield from ("--reranker", self.model, "--num-retrieved", str(self.num_retrieved))
        if self.kind is not None:
            yield from ("--reranker-kind", self.kind)
        if self.max_length is not None:
            yield from ("--reranker-length", str(self.max_length))


@contextmanager
def serving(
    config: ServerConfig,
    *,
    index: Path,
    log_path: Path,
    device: str = "auto",
    torch_threads: int | None = None,
    reranking: Reranking | None = None,
) -> Iterator[ServerProcess]:
    """Run the server over `index`; its output is added to `log_path`.

    Raises ValueError when the port is taken, RuntimeError with the end of the log when the server does not get ready
    within config.startup_timeout_s.
    """
    server = ServerProcess(config, index, log_path, device, torch_threads, reranking)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class ServerProcess:
    """A running server. `failed` says why there is none any more, after it died a second time."""

    def __init__(
        self,
        config: ServerConfig,
        index: Path,
        log_path: Path,
        device: str,
        torch_threads: int | None,
        reranking: Reranking | None = None,
    ) -> None:
        self._config = config
        self._log_path = log_path
        self._socket = bind(config.host, config.port)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.restarts = 0
        self.failed: str | None = None
        self._environment = environment()
        if torch_threads:
            self._environment["OMP_NUM_THREADS"] = str(torch_threads)
        self._command = [
            *_command(config, index, self._socket.fileno(), device, torch_threads),
            *(reranking.options() if reranking else ()),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # held while a process is started or stopped
        self._monitor = threading.Thread(target=self._watch, name="retrieval-server-monitor", daemon=True)

    @property
    def pid(self) -> int:
        """Of the server process that runs now."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        self._spawn()
        self._wait_until_ready()
        self._monitor.start()

    def stop(self) -> None:
        """End the process (TERM, after config.stop_timeout_s and 5 s more KILL) and close the port."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is not None:
            if process.poll() is None:
                process.terminate()
                timeout_s = self._config.stop_timeout_s + _LONGER_S
                try:
                    process.wait(timeout_s)
                except subprocess.TimeoutExpired:
                    logger.warning("the retrieval server did not stop within %g s; killing it", timeout_s)
                    process.kill()
            _reap(process)
        if self._monitor.is_alive():
            self._monitor.join()
        self._socket.close()

    def _spawn(self) -> None:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self._log_path.open("ab") as log:
            if self._stopping.is_set():
                return
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # kept open as long as we live; see jointrag.parent
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[self._socket.fileno()],
                start_new_session=True,
                env=self._environment,
            )

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._config.startup_timeout_s
        while not self._stopping.is_set():
            if (code := self._process.poll()) is not None:
                raise RuntimeError(
                    f"the retrieval server ended with exit code {code} before it was ready{self._tail()}"
                )
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the retrieval server was not ready within {self._config.startup_timeout_s:g} s "
                    f"(server.startup_timeout_s){self._tail()}"
                )
            if self._is_ready():
                return
            self._stopping.wait(0.05)

    def _is_ready(self) -> bool:
        try:
            with requests.Session() as session:
                session.trust_env = False
                return session.get(f"{self.url}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def _watch(self) -> None:
        while True:
            assert self._process is not None
            code = self._process.wait()
            _reap(self._process)
            if self._stopping.is_set():
                return
            if self.restarts == 1:
                self._fail(f"the retrieval server at {self.url} died twice (now with exit code {code})")
                return
            logger.warning("the retrieval server died (exit code %d); starting it again at %s", code, self.url)
            self.restarts = 1
            try:
                self._spawn()
                self._wait_until_ready()
            except (RuntimeError, OSError) as error:
                self._fail(f"the retrieval server died and could not be started again: {error}")
                return

    def _fail(self, why: str) -> None:
        assert self._process is not None
        self._process.kill()  # it may hang in its start
        _reap(self._process)
        self._socket.close()  # clients are refused from now on, instead of waiting in the queue
        self.failed = f"{why}; see {self._log_path}"
        logger.error(self.failed)

    def _tail(self, num_lines: int = 20) -> str:
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:]
        return f"; the end of {self._log_path}:\n" + "\n".join(lines)


def _command(config: ServerConfig, index: Path, fd: int, device: str, torch_threads: int | None) -> list[str]:
    threads = ["--torch-threads", str(torch_threads)] if torch_threads else []
    workers = ["--workers", str(config.workers)] if config.workers > 1 else []
    devices = ["--devices", ",".join(config.devices)] if config.devices else []
    return [
        *(sys.executable, "-m", "retrieval_server", "--exit-with-parent", "--fd", str(fd)),
        *("--index", str(index.resolve()), "--device", device),
        *(*settings(config), *threads, *workers, *devices),
    ]


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
