"""The machinery of stages against a real Prefect server: what runs again, what does not, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.local_services import ROOT, Services
from flows.temporary_server import temporary_server
from jointrag.runs import runs
from tests.integration.toy import CHAIN, toy_flow

WAIT_S = 60.0


@pytest.fixture(scope="module")
def prefect_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with temporary_server(Services(tmp_path_factory.mktemp("services"))) as environment:
        yield environment


class Toy:
    """Runs of the toy flow in one workspace."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flow = toy_flow()

    def run(self, **parameters: Any) -> Any:
        """One flow run; returns its final state."""
        (self.folder / "calls").unlink(missing_ok=True)
        return self.flow(str(self.folder), **parameters, return_state=True)

    @property
    def calls(self) -> list[str]:
        """The stages whose function ran in the last run."""
        file = self.folder / "calls"
        return file.read_text().split() if file.exists() else []

    def output(self, stage: str) -> Path:
        (path,) = [path for path in self.folder.glob(f"*/{stage}/*") if path.is_dir()]
        return path


@pytest.fixture
def toy(prefect_environment: dict[str, str], tmp_path: Path) -> Iterator[Toy]:
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    changes: dict[Any, Any] = {
        PREFECT_API_URL: prefect_environment["PREFECT_API_URL"],
        PREFECT_HOME: prefect_environment["PREFECT_HOME"],
        PREFECT_LOCAL_STORAGE_PATH: str(tmp_path / "results"),
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    with temporary_settings(changes):
        yield Toy(tmp_path)


def task_states(state: Any) -> dict[str, str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    only = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))

    def read() -> dict[str, str]:
        with get_client(sync_client=True) as client:
            return {run.name: str(run.state_name) for run in client.read_task_runs(flow_run_filter=only)}

    wait_until(lambda: len(read()) == 3 and not {"Pending", "Running"} & set(read().values()))
    return read()


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_what_runs_again(toy: Toy) -> None:
    (toy.folder / "fail").touch()
    failed = toy.run()
    assert failed.is_failed()
    (record,) = runs(toy.folder)
    assert list(record.stages) == ["prepare", "index"] and record.finished is None
    assert "mappo: the reward is not a number; lower mappo.learning_rate" in failed.message
    assert ".partial; once the cause is gone, run it again to go on from there" in failed.message
    assert toy.calls == ["prepare", "index", "mappo"]

    (toy.folder / "fail").unlink()
    done = toy.run()
    assert done.is_completed()
    assert toy.calls == ["mappo"]  # it starts where it failed
    (record,) = [run for run in runs(toy.folder) if run.finished]
    assert {name: record.stage(name) for name in record.stages} == {name: toy.output(name) for name in CHAIN}
    assert task_states(done) == {"prepare": "Cached", "index": "Cached", "mappo": "Completed"}
    assert json.loads((toy.output("mappo") / "manifest.json").read_text())["metrics"]["mappo/resumed"] == 1.0

    unchanged = toy.run()
    assert toy.calls == []
    assert set(task_states(unchanged).values()) == {"Cached"}

    (toy.output("index") / "index.txt").unlink()
    toy.run()
    assert toy.calls == ["index"]  # rebuilt with the same content: what depends on it stays

    weights = toy.output("mappo") / "model" / "weights.txt"
    weights.write_text("w" * 3)
    toy.run()
    assert toy.calls == ["mappo"]
    assert weights.read_text() == "w" * 10

    toy.run(force=("prepare",))
    assert toy.calls == ["prepare"]

    toy.run(factory="HNSW32")
    assert toy.calls == ["index", "mappo"]
    toy.run()
    assert toy.calls == []  # the earlier outputs are still there

    toy.run(people=6)
    assert toy.calls == ["prepare", "index", "mappo"]


def test_a_remembered_result_is_not_trusted_over_the_files(toy: Toy) -> None:
    toy.run()
    path = toy.output("prepare")
    before = json.loads((path / "manifest.json").read_text())
    from jointrag.artifacts import Recipe, produce
    from jointrag.config import SyntheticDataset

    def other(out: Path) -> dict[str, float]:
        (out / "questions.txt").write_text("made elsewhere")
        return {}

    recipe = Recipe("prepare", 1, {"config": SyntheticDataset(num_people=5)}, seed=0)
    assert recipe.key == before["key"]
    produce(recipe, toy.folder, other, force=True)  # from Python, without Prefect
    toy.run()
    assert toy.calls == ["index", "mappo"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_flow_that_is_ended_leaves_nothing_behind(
    number: signal.Signals, prefect_environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "hang").touch()
    environment = os.environ | prefect_environment | {"PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "results")}
    command = [sys.executable, "-m", "tests.integration.toy", str(tmp_path)]
    with (tmp_path / "log").open("wb") as log:
        flow = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        partial = "models/mappo/*.partial/checkpoint.json"
        wait_until(lambda: list(tmp_path.glob(partial)) or flow.poll() is not None)
        assert flow.poll() is None, (tmp_path / "log").read_text()
        (checkpoint,) = tmp_path.glob(partial)
        wait_until(lambda: checkpoint.read_text().endswith("]"))
        (child,) = json.loads(checkpoint.read_text())
        assert is_alive(child)
        flow.send_signal(number)
        assert flow.wait(WAIT_S) != 0
        wait_until(lambda: not is_alive(child))
    finally:
        flow.kill()
        flow.wait()
    assert [path.suffix for path in tmp_path.glob("models/mappo/*") if path.is_dir()] == [".partial"]
    assert (tmp_path / "calls").read_text().split() == ["prepare", "index", "mappo"]

    (tmp_path / "hang").unlink()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "calls").read_text().split() == ["prepare", "index", "mappo", "mappo"]
    (manifest,) = tmp_path.glob("models/mappo/*/manifest.json")
    assert json.loads(manifest.read_text())["metrics"]["mappo/resumed"] == 1.0


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
