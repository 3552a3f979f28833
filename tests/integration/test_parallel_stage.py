"""A stage that two processes share: one outcome, one sentence where it fails, and nobody left behind."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.call import StageFailed
from tests.integration.ranks_of_stage import run

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120


def test_the_first_process_logs_tracks_and_reports(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tasks.call"):
        assert run("fine", tmp_path) == {"rank": 0.0}
    assert [record.getMessage().strip() for record in caplog.records] == ["for all to read"]
    assert (tmp_path / "out" / "file").exists()


def test_accelerate_starts_a_team_that_shards_its_models(tmp_path: Path) -> None:
    assert run("team", tmp_path, ROOT / "configs/accelerate/fsdp.yaml") == {"size": 2.0, "sharded": 1.0}


def test_a_config_that_accelerate_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("distributed_type: MULTI_GPU\nmixed_precision: fp7\n")
    with pytest.raises(StageFailed, match=r"^mappo: ValueError: Unknown mixed_precision mode: fp7\."):
        run("team", tmp_path, tmp_path / "config.yaml")


def test_an_error_of_any_process_is_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tasks.call"), pytest.raises(StageFailed) as caught:
        run("second_fails", tmp_path)
    assert str(caught.value) == "mappo: the second process has no questions; give it some"
    assert not [record.getMessage() for record in caplog.records]


def test_a_killed_process_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"^mappo: process 1 was killed \(SIGKILL; out of memory\?\)$"):
        run("second_is_killed", tmp_path)


@pytest.mark.parametrize("victim", ["flow", "launcher"])
def test_nobody_outlives_a_killed_flow_or_launcher(tmp_path: Path, victim: str) -> None:
    flow = subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.integration.ranks_of_stage", "hangs", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert flow.stdout is not None
    try:
        workers, launchers = zip(*(_pids(flow.stdout.readline()) for _ in range(2)), strict=True)
        assert launchers[0] == launchers[1]
        assert workers[0] != workers[1]
        pidfds = [os.pidfd_open(pid) for pid in (*workers, launchers[0])]
        os.kill(flow.pid if victim == "flow" else launchers[0], signal.SIGKILL)
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], TIMEOUT_S)[0], "it still runs"
            os.close(pidfd)
        flow.wait(TIMEOUT_S)
        if victim == "launcher":
            assert b"StageFailed: mappo: was killed (SIGKILL; out of memory?)" in flow.stdout.read()
    finally:
        flow.kill()
        flow.wait()
        flow.stdout.close()


def test_an_interrupted_flow_takes_both_with_it(tmp_path: Path) -> None:
    pids: list[int] = []

    class Interrupt(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            pids.extend(_pids(record.getMessage().strip().encode()))
            if len(pids) == 4:
                raise KeyboardInterrupt

    log, handler = logging.getLogger("tasks.call"), Interrupt()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(KeyboardInterrupt):
            run("hangs", tmp_path)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists() and "State:\tZ" not in _status(pid)]


def _pids(line: bytes) -> tuple[int, int]:
    word, worker, launcher = line.split()
    assert word == b"pids", line
    return int(worker), int(launcher)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "State:\tZ"
