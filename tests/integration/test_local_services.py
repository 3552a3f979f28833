"""`make up`, `make deploy`, a run that fails at once, `make down`: real servers and a real worker on free ports."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.local_services import HOST, ROOT, ServiceError, Services, answers, group_members
from jointrag.presets import presets


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, int, int]]:
    services = Services(tmp_path_factory.mktemp("services"))
    prefect_port, mlflow_port = free_port(), free_port()
    try:
        services.up(prefect_port, mlflow_port)
        yield services, prefect_port, mlflow_port
    finally:
        services.down()


def test_up_deploy_run(up: tuple[Services, int, int], capsys: pytest.CaptureFixture[str]) -> None:
    services, prefect_port, mlflow_port = up
    assert answers(f"http://{HOST}:{prefect_port}/api/health")
    assert answers(f"http://{HOST}:{mlflow_port}/health")
    before = services.running()
    assert set(before) == {"prefect", "mlflow", "worker"}
    services.up(prefect_port, mlflow_port)  # nothing to do
    assert services.running() == before

    services.deploy()
    said = capsys.readouterr().out
    assert all(f"full-pipeline/{name}" in said for name in set(presets()) - {"retriever", "index"})
    assert "train-retrieval/retriever" in said
    assert "build-index/index" in said

    environment = os.environ | services.environment(prefect_port, mlflow_port)
    watch = [sys.executable, "-m", "flows.watch"]
    run = subprocess.run(
        [*watch, "full-pipeline/single-gpu"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "dataset.path=data/my-corpus: no such folder" in run.stderr
    assert f"http://{HOST}:{prefect_port}/runs/flow-run/" in run.stdout

    unknown = subprocess.run(
        [*watch, "full-pipeline/nothing"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert unknown.returncode == 1
    assert "not found" in unknown.stderr


def test_down_leaves_no_process(up: tuple[Services, int, int]) -> None:
    services, prefect_port, _ = up
    pids = [service.pid for service in services.running().values()]
    assert len(pids) == 3
    services.down()
    assert services.running() == {}
    assert [group_members(pid) for pid in pids] == [[], [], []]
    assert not answers(f"http://{HOST}:{prefect_port}/api/health")
    with pytest.raises(ServiceError, match="not up"):
        services.deploy()


def test_a_busy_port_is_a_clear_error(tmp_path: Path) -> None:
    services = Services(tmp_path)
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port} for mlflow is in use .*MLFLOW_PORT={port + 1}"):
            services.up(free_port(), port)
    assert services.running() == {}


def test_a_reused_pid_is_not_taken_for_a_service(tmp_path: Path) -> None:
    record = {"name": "prefect", "pid": os.getpid(), "started": "1", "port": 4200}
    (tmp_path / "services.json").write_text(json.dumps([record]))
    assert Services(tmp_path).running() == {}
