"""What the workers of a server share: a folder that says which index they serve, which are ready, what they counted.

A worker that was told to serve another index writes it here once it does, and tells the parent, who tells the others.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from filelock import FileLock

from jointrag.jsonl import write_atomically

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the variable in which prometheus_client looks for it
# glibc gives threads arenas of their own; dozens of handlers would keep what they freed in as many
_FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}
_INDEX, _LOCK = "index.json", "lock"


def environment() -> dict[str, str]:
    """Of a process of the server: wherever it was started, it finds the modules that this one finds."""
    return {**_FEW_ARENAS, **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def read(state: Path) -> tuple[Path, int]:
    """The index that all should serve, and its generation."""
    row = json.loads((state / _INDEX).read_text(encoding="utf-8"))
    return Path(row["index"]), row["generation"]


def write(state: Path, index: Path, generation: int) -> None:
    write_atomically(state / _INDEX, json.dumps({"index": str(index), "generation": generation}))


def renew(state: Path) -> None:
    """The same index is to be opened again."""
    with FileLock(state / _LOCK):
        index, generation = read(state)
        write(state, index, generation + 1)


def share(state: Path, index: Path, generation: int) -> None:
    """Called by a worker that serves another index now; SIGUSR1 to the parent unless it was following itself."""
    with FileLock(state / _LOCK):
        if read(state) == (index, generation):
            return
        write(state, index, generation)
    os.kill(os.getppid(), signal.SIGUSR1)


def mark_ready(state: Path) -> None:
    _mark(state, os.getpid()).touch()


def is_ready(state: Path, pid: int) -> bool:
    return _mark(state, pid).exists()


def forget(state: Path, pid: int) -> None:
    """Of a worker that is gone; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    _mark(state, pid).unlink(missing_ok=True)
    mark_process_dead(pid, str(state))


def _mark(state: Path, pid: int) -> Path:
    return state / f"ready-{pid}"
