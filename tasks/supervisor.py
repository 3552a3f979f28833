"""Runs a command so that it never outlives this process: in its own session, tied to us by its stdin.

`run` hands on every line the command prints, and on the way out, for whatever reason (its end, an error here, a
cancelled flow, Ctrl-C), ends the whole process group: TERM, then KILL. Should this process be killed outright, the
command notices the closed pipe (jointrag.parent) and ends itself. So do processes that the command started in groups of
their own, if they inherit the pipe and watch it as well; `run` waits for them.
"""

from __future__ import annotations

import codecs
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

GRACE_S = 10.0
POLL_S = 0.5
LAST_LINES = 20


class CommandFailed(RuntimeError):
    """The command ended with an error. `lines`: the last ones it printed."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.lines = tuple(lines)


def run(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    failed: Callable[[], str | None] = lambda: None,
) -> None:
    """Run `command` to its end; stdout and stderr go to `on_line`, line by line, in this thread.

    `failed` is asked twice a second whether something the command relies on is gone; its answer ends the command.
    Raises CommandFailed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # never written to: open as long as we live
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=dict(os.environ) | dict(environment or {}),
        cwd=folder,
    )
    last: deque[str] = deque(maxlen=LAST_LINES)

    def take(line: str) -> None:
        last.append(line)
        on_line(line)

    try:
        _follow(process, take, failed, last)
    finally:
        _end(process)
    if process.returncode != 0:
        raise CommandFailed(ending(process.returncode), last)


def _follow(
    process: subprocess.Popen[bytes], take: Callable[[str], None], failed: Callable[[], str | None], last: deque[str]
) -> None:
    """Read the command's output until it has ended."""
    assert process.stdout is not None
    lines = _Lines(take)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None  # asked first, so that nothing it said last is missed
            if selector.select(0 if ended else POLL_S):
                content = os.read(process.stdout.fileno(), 65536)
                if not content:
                    break
                lines.feed(content)
            elif ended:  # a grandchild that lives on may still hold the pipe
                break
            if reason := failed():
                raise CommandFailed(reason, last)
    lines.close()
    process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the command's process group, and by the closed pipe what else it started."""
    for number, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        deadline = time.monotonic() + wait_s
        try:
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()  # reaps the leader; the group is gone when no member is left
                os.killpg(process.pid, 0)
                time.sleep(0.02)
        except ProcessLookupError:
            break
    process.wait()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    _wait_until_closed(process.stdout.fileno())
    process.stdout.close()


def _wait_until_closed(output: int) -> None:
    """Until no process holds the other end any more."""
    deadline = time.monotonic() + GRACE_S
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while (left_s := deadline - time.monotonic()) > 0:
            if selector.select(left_s) and not os.read(output, 65536):
                return


def ending(code: int) -> str:
    """How a process with this return code ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    return f"was killed ({name}{'; out of memory?' if name == 'SIGKILL' else ''})"


class _Lines:
    """Bytes to lines. Of a bar that redraws itself with carriage returns, only the last state in a line counts."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def feed(self, content: bytes) -> None:
        *lines, self._rest = (self._rest + self._decoder.decode(content)).split("\n")
        for line in lines:
            self._emit(line)

    def close(self) -> None:
        self._emit(self._rest)

    def _emit(self, line: str) -> None:
        if line := line.rstrip("\r").rpartition("\r")[2].rstrip():
            self._take(line)
