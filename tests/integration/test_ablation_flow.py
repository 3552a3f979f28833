"""The ablation flow against a real Prefect server and a real MLflow store, with toy stages in place of training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.ablation_data import Result
from flows.local_services import Services
from flows.temporary_server import temporary_server
from tests.integration import toy_ablation

TABLE = "# How many steps\nten steps: {mappo.num_steps: 10}\nfive steps: {mappo.num_steps: 5}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with temporary_server(Services(tmp_path_factory.mktemp("services"))) as environment:
        yield environment


@pytest.fixture
def ablation(server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The flow, with its workspace and its store below tmp_path."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_HOME,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_LOGGING_TO_API_ENABLED,
        temporary_settings,
    )

    from flows import ablation, full_pipeline

    monkeypatch.chdir(tmp_path)  # MLflow keeps the files of a sqlite store below the working directory
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(full_pipeline, "trained_and_evaluated", toy_ablation.trained_and_evaluated)
    (tmp_path / "steps.yaml").write_text(TABLE)
    changes: dict[Any, Any] = {
        PREFECT_API_URL: server["PREFECT_API_URL"],
        PREFECT_HOME: server["PREFECT_HOME"],
        PREFECT_LOCAL_STORAGE_PATH: str(tmp_path / "results"),
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }

    def run(**parameters: Any) -> Any:
        (tmp_path / "calls").unlink(missing_ok=True)
        given = {
            "table": str(tmp_path / "steps.yaml"),
            "preset": "smoke",
            "overrides": {"workspace": str(tmp_path), "tracking.num_traces": 1},
        }
        return ablation.ablation(**(given | parameters), return_state=True)

    with temporary_settings(changes):
        yield run


def calls(folder: Path) -> list[str]:
    """What was really done in the last run."""
    file = folder / "calls"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def test_a_failed_row_costs_the_others_nothing_and_the_rerun_goes_on(ablation: Any, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    failed = ablation(seeds=[0, 1])
    assert failed.is_failed()
    assert "2 of 4 trainings failed; the others are kept" in failed.message
    assert "five steps, seed 1: evaluate: the reward is not a number; lower mappo.learning_rate" in failed.message
    assert calls(tmp_path) == [
        *("prepare-0", "evaluate-10-0", "evaluate-5-0"),  # the rows of a seed share what they have in common
        *("prepare-1", "evaluate-10-1", "evaluate-5-1"),
    ]
    assert not list(tmp_path.glob("runs/ablation/*/ablation.json"))

    (tmp_path / "fail").unlink()
    done = ablation(seeds=[0, 1])
    assert done.is_completed(), done.message
    assert calls(tmp_path) == ["evaluate-5-0", "evaluate-5-1"]
    page = Path(done.result())
    result = Result.read(page.with_name("ablation.json"))
    assert [(row.name, row.f1, row.delta) for row in result.rows] == [
        ("ten steps", pytest.approx(10.5 / 20), None),
        ("five steps", pytest.approx(5.5 / 20), pytest.approx(-0.25)),
    ]

    again = ablation(seeds=[0, 1])
    assert calls(tmp_path) == []
    assert Path(again.result()) == page
    _is_recorded(done, tmp_path)


def _is_recorded(done: Any, folder: Path) -> None:
    """Prefect: a subflow per training and the table as an artifact. MLflow: their runs below the ablation's."""
    from mlflow import MlflowClient
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    flow_run_id = done.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
        subflows = client.read_flow_runs(flow_run_filter=below)
        own = client.read_flow_run(flow_run_id)
        artifacts = {artifact.key: artifact for artifact in client.read_artifacts() if artifact.key}
    names = {f"{own.name}-{row}-steps-seed-{seed}" for row in ("ten", "five") for seed in (0, 1)}
    assert {run.name for run in subflows} == names
    assert "ten steps reaches F1 52.5" in str(artifacts["ablation-steps"].data)

    mlflow = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.get_experiment_by_name("jointrag")
    assert experiment is not None
    (parent,) = mlflow.search_runs([experiment.experiment_id], f"tags.`prefect.flow_run_id` = '{flow_run_id}'")
    assert parent.data.metrics["ablation/five-steps/delta_f1"] == pytest.approx(-0.25)
    children = mlflow.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    pipelines = [run for run in children if run.data.tags["jointrag.kind"] == "pipeline"]
    assert {run.data.tags["mlflow.runName"].removeprefix("smoke ") for run in pipelines} == names
    assert {run.data.params["mappo.num_steps"]: run.data.metrics["eval/mappo/f1"] for run in pipelines} == {
        "10": pytest.approx(0.525, abs=0.03),
        "5": pytest.approx(0.275, abs=0.03),
    }
    for run in pipelines:
        traces = mlflow.search_traces(locations=[experiment.experiment_id], run_id=run.info.run_id)
        assert sorted(one.info.tags["jointrag.system"] for one in traces) == ["mappo", "warm_start"]
    tried = [
        {name: value for name, value in run.data.metrics.items() if name.startswith("eval/")}
        for run in mlflow.search_runs([experiment.experiment_id])
        if run.data.tags["mlflow.runName"].endswith("-ten-steps-seed-1")
    ]
    assert (
        tried == [{"eval/mappo/f1": pytest.approx(0.55)}] * 3
    )  # made once; Compare shows it for all that took it over
    assert {file.path for file in mlflow.list_artifacts(parent.info.run_id, "report")} == {
        f"report/ablation.{kind}" for kind in ("json", "md", "html")
    }


def test_impossible_rows_are_refused_before_anything_runs(ablation: Any, tmp_path: Path) -> None:
    refused = ablation(overrides={"workspace": str(tmp_path), "mappo.minibatch_episodes": 500})
    assert refused.is_failed()
    assert "row 'ten steps' of table steps: mappo: minibatch_episodes=500" in refused.message
    assert calls(tmp_path) == []
