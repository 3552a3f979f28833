"""Makes the shards that are missing: in this process, or in several that share them, one per GPU or CPU core.

    encode_missing(shards, encoder, batch_size=256)
    encode_in_processes(shards, num_processes=8, device="auto", batch_size=256)

Such a process is `python -m` this module, so a caller's script needs no `if __name__ == "__main__"`. Each takes the
next shard that nobody has and that nobody holds the lock of; the lock of a killed process is free. They end with the
process that started them.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from jointrag.encoders import Encoder
from jointrag.index.shards import Shards
from jointrag.parent import exit_with_parent
from jointrag.progress import progress

_POLL_S = 0.2
_WHAT = "embedding the corpus, "


def encode_missing(shards: Shards, encoder: Encoder, batch_size: int = 256) -> None:
    """All that is missing, here."""
    numbers = shards.missing()
    steps = (step for number in numbers for step in shards.encoding(number, encoder, batch_size))
    for _ in progress(steps, f"{_WHAT}block", total=shards.num_steps(numbers)):
        pass


def encode_in_processes(shards: Shards, num_processes: int, device: str = "auto", batch_size: int = 256) -> None:
    """All that is missing, in `num_processes` processes. With "auto" or "cuda" they are dealt out over the GPUs there
    are. Raises RuntimeError with what a process said when it fails; the others are stopped, and finished shards stay.
    """
    numbers = shards.missing()
    count = min(num_processes, len(numbers))
    devices = _devices(device, count)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if devices[:1] == ["cpu"]:
        environment["OMP_NUM_THREADS"] = str(max(1, _num_threads() // count))
    with tempfile.TemporaryDirectory() as logs:
        said = [Path(logs) / str(i) for i in range(count)]
        workers = [_start(shards, one, batch_size, log, environment) for one, log in zip(devices, said, strict=True)]
        try:
            for _ in progress(_finished(shards, numbers, workers, said), f"{_WHAT}shard", total=len(numbers)):
                pass
        finally:
            for worker in workers:
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
                assert worker.stdin is not None
                worker.stdin.close()


def _start(
    shards: Shards, device: str, batch_size: int, log: Path, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jointrag.index.encoding", str(shards.folder)]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, "--device", device, "--batch-size", str(batch_size)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )


def _finished(
    shards: Shards, numbers: list[int], workers: list[subprocess.Popen[bytes]], said: list[Path]
) -> Iterator[int]:
    """Yields every shard that is new, until all processes have ended."""
    waiting = numbers
    while True:
        running = [worker.poll() for worker in workers].count(None)
        new = [number for number in waiting if shards.path(number).exists()]
        yield from new
        waiting = [number for number in waiting if number not in new]
        for worker, log in zip(workers, said, strict=True):
            if worker.returncode:
                words = log.read_text(encoding="utf-8", errors="replace").strip()[-2000:]
                raise RuntimeError(f"a process that embeds the corpus failed ({_ending(worker.returncode)})\n{words}")
        if not running:
            return
        time.sleep(_POLL_S)


def _ending(code: int) -> str:
    return f"killed by signal {-code}; out of memory?" if code < 0 else f"exit code {code}"


def _devices(device: str, count: int) -> list[str]:
    if device == "cpu":
        return ["cpu"] * count
    import torch

    num_gpus = torch.cuda.device_count()
    if device not in ("auto", "cuda") or (device == "cuda" and not num_gpus):
        return [device] * count
    return [f"cuda:{i % num_gpus}" if num_gpus else "cpu" for i in range(count)]


def _num_threads() -> int:
    import torch

    return torch.get_num_threads()


# ---- in a process ----------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the shards")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=256)
    given = parser.parse_args()
    exit_with_parent()
    shards = Shards.open(given.folder)
    encoder = Encoder.load(shards.model, given.device, shards.details.encoder_backend)
    for number in shards.missing():
        try:
            with FileLock(shards.folder / f".{number:06d}.lock", timeout=0):
                if shards.damage(number):
                    shards.encode(number, encoder, given.batch_size)
        except Timeout:  # another process is making it
            continue
    return 0


if __name__ == "__main__":
    sys.exit(main())
