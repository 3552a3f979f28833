"""A child process that never outlives its parent, however the parent ends (kill -9 included).

The parent starts the child in a session of its own with `stdin=subprocess.PIPE` and keeps the pipe open; the child
calls `exit_with_parent()` first thing. The kernel closes the pipe when the parent is gone, and the child takes its
whole process group, and so its own children, with it.
"""

from __future__ import annotations

import os
import signal
import threading


def exit_with_parent() -> None:
    """Watch stdin from a daemon thread; at its end, kill this process group at once.

    No cleanup runs: whatever a stage writes has to be atomic anyway. Raises ValueError when this process does not lead
    its group, because the group's other members would die too: start it with `start_new_session=True`.
    """
    if os.getpgrp() != os.getpid():
        raise ValueError(
            "exit_with_parent needs a process group of its own: start the process with start_new_session=True"
        )
    threading.Thread(target=_kill_group_at_end_of_stdin, name="exit-with-parent", daemon=True).start()


def _kill_group_at_end_of_stdin() -> None:
    # os.read, not sys.stdin: a thread inside the buffered reader would hold its lock while the interpreter shuts down
    while os.read(0, 4096):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)
