"""Several processes behind one port, or on consecutive ports: `python -m retrieval_server --workers 4 …`.

The parent holds the sockets and loads nothing. Workers inherit them and accept connections in turn, so one that dies
takes only what it was working on; the parent starts another. Which index they serve is in a file: a worker that was
told to serve another one (POST /v1/reload) writes it there once it does, and the parent has the others follow. SIGHUP
to the parent has all of them open the index again.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from retrieval_server import state as shared_state
from retrieval_server.address import bind
from retrieval_server.options import config_of, worker_command

logger = logging.getLogger(__name__)
_POLL_S = 0.05
_TRIES = 3  # starts in a row of a worker that dies before it is ready
_PAUSE_S = 1.0  # before the second, twice as long before the third


def supervise(args: argparse.Namespace) -> None:
    """Run the workers until SIGTERM. Raises ValueError when they cannot be started."""
    devices = [name for name in args.devices.split(",") if name] or [args.device]
    num_workers = len(devices) if args.workers is None else args.workers
    if num_workers < 1:
        raise ValueError(f"--workers {num_workers}: at least one is needed")
    sockets = _sockets(args, num_workers)
    torch_threads = args.torch_threads or max(1, len(os.sched_getaffinity(0)) // num_workers)
    with tempfile.TemporaryDirectory(prefix="retrieval-server-") as folder:
        state = Path(folder)
        shared_state.write(state, args.index.resolve(), 1)
        team = _Team(
            [
                _Worker(i, sockets[i % len(sockets)], worker_command(args, devices[i % len(devices)], torch_threads))
                for i in range(num_workers)
            ],
            state,
            config_of(args).stop_timeout_s,
        )
        try:
            team.run()
        finally:
            team.stop()
    logger.info("stopped")


def _sockets(args: argparse.Namespace, num_workers: int) -> list[socket.socket]:
    if args.fd is not None:
        if args.consecutive_ports:
            raise ValueError("--fd is one socket, --consecutive-ports wants several; give one of them")
        return [socket.socket(fileno=args.fd)]
    if not args.consecutive_ports:
        return [bind(args.host, args.port)]
    return [bind(args.host, args.port + i if args.port else 0) for i in range(num_workers)]


@dataclass
class _Worker:
    number: int
    socket: socket.socket
    options: list[str]
    process: subprocess.Popen[bytes] | None = None
    is_ready: bool = False
    num_failures: int = 0  # starts in a row that came to nothing
    start_at: float = 0.0


class _Team:
    def __init__(self, workers: list[_Worker], state: Path, stop_timeout_s: float) -> None:
        self._workers = workers
        self._state = state
        self._stop_timeout_s = stop_timeout_s
        self._told: set[int] = set()  # signals that came
        self._all_ready = False

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda number, _: self._told.add(number))
        while not self._told & {signal.SIGTERM, signal.SIGINT}:
            self._listen()
            for worker in self._workers:
                self._look_after(worker)
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """TERM to all, KILL to those that take too long."""
        processes = [worker.process for worker in self._workers if worker.process is not None]
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + self._stop_timeout_s + 2
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _look_after(self, worker: _Worker) -> None:
        process = worker.process
        if process is None:
            if time.monotonic() >= worker.start_at:
                self._start(worker)
        elif (code := process.poll()) is not None:
            self._bury(worker, process, code)
        elif not worker.is_ready and shared_state.is_ready(self._state, process.pid):
            worker.is_ready, worker.num_failures = True, 0
            process.send_signal(signal.SIGHUP)  # it may have missed one while it was loading
            if not self._all_ready and all(one.is_ready for one in self._workers):
                self._all_ready = True
                logger.info("ready: %d workers on %s", len(self._workers), ", ".join(self._urls()))

    def _start(self, worker: _Worker) -> None:
        fd = worker.socket.fileno()
        index, _ = shared_state.read(self._state)
        command = [sys.executable, "-m", "retrieval_server", "--exit-with-parent", "--fd", str(fd)]
        worker.process = subprocess.Popen(
            [*command, "--index", str(index), "--shared-state", str(self._state), *worker.options],
            stdin=subprocess.PIPE,  # kept open as long as we live; see jointrag.parent
            pass_fds=[fd],
            start_new_session=True,
            env=shared_state.environment() | {shared_state.METRICS_FOLDER: str(self._state)},
        )

    def _bury(self, worker: _Worker, process: subprocess.Popen[bytes], code: int) -> None:
        assert process.stdin is not None
        process.stdin.close()
        shared_state.forget(self._state, process.pid)
        if not worker.is_ready:
            worker.num_failures += 1
            if not self._all_ready or worker.num_failures == _TRIES:
                raise ValueError(f"worker {worker.number} ended with exit code {code} before it was ready (see above)")
            worker.start_at = time.monotonic() + _PAUSE_S * worker.num_failures
        logger.warning("worker %d died (exit code %d); starting it again", worker.number, code)
        worker.process, worker.is_ready = None, False

    def _urls(self) -> list[str]:
        names = [worker.socket.getsockname()[:2] for worker in self._workers]
        return list(dict.fromkeys(f"http://{host}:{port}" for host, port in names))

    def _listen(self) -> None:
        """Do what signals ask for; not in their handlers, which interrupt anything."""
        if signal.SIGHUP in self._told:
            self._told.discard(signal.SIGHUP)
            shared_state.renew(self._state)
            self._told.add(signal.SIGUSR1)
        if signal.SIGUSR1 in self._told:
            self._told.discard(signal.SIGUSR1)
            for worker in self._workers:
                if worker.is_ready and worker.process is not None and worker.process.poll() is None:
                    worker.process.send_signal(signal.SIGHUP)  # before it is ready this would end it
