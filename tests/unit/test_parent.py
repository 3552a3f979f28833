"""A child that ends with its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from jointrag.parent import exit_with_parent

CHILD = "from jointrag.parent import exit_with_parent as e; e(); import time; print('up', flush=True); time.sleep(600)"
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def test_killed_parent_takes_the_child_with_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, 0)  # alive
    pidfd = os.pidfd_open(child)
    parent.kill()
    parent.wait()
    assert select.select([pidfd], [], [], 10)[0], "the child outlived its parent"
    os.close(pidfd)
    parent.stdout.close()


def test_closed_pipe_kills_the_child() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"
    child.communicate()  # closes the pipe
    assert child.returncode == -signal.SIGKILL


def test_shared_process_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpgrp", lambda: 1)
    with pytest.raises(ValueError, match="start_new_session"):
        exit_with_parent()
