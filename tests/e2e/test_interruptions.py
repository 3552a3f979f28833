"""The real pipeline, interrupted: the flow killed in the middle of MAPPO, the server killed once, then twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.test_smoke import ROOT, processes_in

LONG_MAPPO = ("--set", "mappo.num_steps=400", "--set", "mappo.dev_every=0", "--set", "control.enabled=false")
# checkpoints often, and a training slow enough to be caught in the middle
SETTINGS = (*LONG_MAPPO, "--set", "mappo.checkpoint_every=5", "--set", "mappo.ppo_epochs=2")


class Pipeline:
    """A smoke pipeline that is running in `workspace`."""

    def __init__(self, workspace: Path) -> None:
        environment = {n: value for n, value in os.environ.items() if not n.startswith(("PREFECT_", "MLFLOW_"))}
        environment |= {"PREFECT_HOME": str(workspace / "prefect"), "MLFLOW_TRACKING_URI": ""}
        self.workspace = workspace
        self.log = workspace / f"log-{time.monotonic_ns()}"
        command = [sys.executable, "-m", "flows.full_pipeline", "--preset", "smoke", "--set", f"workspace={workspace}"]
        self.process = subprocess.Popen(
            [*command, *SETTINGS], cwd=ROOT, env=environment, stderr=self.log.open("w"), start_new_session=True
        )

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def checkpoints(self) -> list[Path]:
        return sorted(self.workspace.glob("models/mappo/*.partial/checkpoints/step-*.pt"))

    @property
    def servers(self) -> list[int]:
        found = subprocess.run(["pgrep", "-f", f"retrieval_server .*{self.workspace}"], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def until(self, condition: Callable[[], object], timeout_s: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for pid in subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split():
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.slow
def test_mappo_goes_on_after_the_flow_was_killed(workspace: Path) -> None:
    first = Pipeline(workspace)
    first.until(lambda: len(first.checkpoints) == 2)
    first.process.kill()
    first.process.wait()
    wait_until(lambda: processes_in(workspace) == [])  # neither trainer nor server outlives the flow
    assert not list(workspace.glob("models/mappo/*/manifest.json"))

    again = Pipeline(workspace)
    assert again.process.wait(timeout=600) == 0, again.output
    assert "MAPPO resumes after step" in again.output
    assert again.output.count("finished earlier") == 5  # prepare, retriever, index, agent data, warm start
    (history,) = workspace.glob("models/mappo/*/history.jsonl")
    assert [json.loads(line)["step"] for line in history.open()] == list(range(1, 401))


@pytest.mark.slow
def test_a_dead_server_is_restarted_once_then_the_run_fails_clearly(workspace: Path) -> None:
    run = Pipeline(workspace)
    run.until(lambda: run.checkpoints)
    os.kill(run.servers[0], signal.SIGKILL)
    run.until(lambda: "starting it again" in run.output)
    seen = set(run.checkpoints)
    run.until(lambda: set(run.checkpoints) - seen)  # MAPPO goes on with the new one
    os.kill(run.servers[0], signal.SIGKILL)
    assert run.process.wait(timeout=120) == 1, run.output
    told = run.output[run.output.index("error: mappo: ") :]
    assert "retrieval server" in told
    assert "run it again to go on from there" in told
    assert "Traceback" not in run.output
    assert run.checkpoints  # a rerun goes on from here
    wait_until(lambda: processes_in(workspace) == [])


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
