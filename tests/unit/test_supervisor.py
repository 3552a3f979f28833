from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tasks import supervisor
from tasks.supervisor import CommandFailed


def run(script: str, **options) -> list[str]:
    lines: list[str] = []
    supervisor.run([sys.executable, "-u", "-c", script], on_line=lines.append, **options)
    return lines


def test_lines_of_both_streams() -> None:
    script = "import sys; print('a'); print('b', file=sys.stderr); print(); print('é', end='')"
    assert run(script) == ["a", "b", "é"]


def test_a_bar_that_redraws_itself_is_one_line() -> None:
    assert run(r"print('10%\r50%\r100%\r'); print('done')") == ["100%", "done"]


def test_nothing_said_last_is_missed() -> None:
    assert len(run("for i in range(20000): print(i)")) == 20000


def test_failure_has_the_last_lines() -> None:
    with pytest.raises(CommandFailed, match="ended with exit code 3") as caught:
        run("for i in range(50): print(i)\nraise SystemExit(3)")
    assert caught.value.lines == tuple(map(str, range(30, 50)))


def test_a_killed_command_is_told_from_a_failed_one() -> None:
    with pytest.raises(CommandFailed, match=r"was killed \(SIGKILL; out of memory\?\)"):
        run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_environment_and_folder(tmp_path: Path) -> None:
    script = "import os; print(os.environ['NEW'], os.getcwd(), 'PATH' in os.environ)"
    assert run(script, environment={"NEW": "x"}, folder=tmp_path) == [f"x {tmp_path} True"]


def test_it_ends_when_what_it_relies_on_is_gone() -> None:
    start = time.monotonic()
    with pytest.raises(CommandFailed, match="the server died"):
        run("import time; time.sleep(60)", failed=lambda: "the server died")
    assert time.monotonic() - start < 10


def test_an_error_here_ends_the_whole_group() -> None:
    pids: list[int] = []

    def stop(line: str) -> None:
        pids.extend(map(int, line.split()))
        raise KeyboardInterrupt

    script = """
import os, subprocess, sys, time
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), inner.pid)
time.sleep(60)
"""
    with pytest.raises(KeyboardInterrupt):
        supervisor.run([sys.executable, "-u", "-c", script], on_line=stop)
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def test_a_command_that_ignores_term_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.3)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    ready: list[str] = []
    with pytest.raises(CommandFailed, match="enough"):
        supervisor.run(
            [sys.executable, "-u", "-c", script],
            on_line=ready.append,
            failed=lambda: "enough" if ready else None,
        )


def test_children_that_the_command_left_behind_are_ended() -> None:
    script = """
import subprocess, sys
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(inner.pid)
"""
    start = time.monotonic()
    (pid,) = map(int, run(script))
    assert time.monotonic() - start < 10
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
