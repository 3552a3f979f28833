from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from jointrag import tracking
from jointrag.tracking import MlflowTracker, Pipeline, open_pipeline


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def opened(uri: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    monkeypatch.chdir(tmp_path)  # MLflow keeps the files of a sqlite store below the working directory
    settings = {"seed": 0, "mappo": {"num_steps": 5, "kl_target": None}, "agents": {"chain": ["generator"]}}
    name = request.node.name
    return open_pipeline(uri, name, name="demo", flow_run_id=f"flow-{name}", settings=settings)


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def test_parent_child_and_final_metrics(opened: Pipeline, uri: str, tmp_path: Path) -> None:
    child = opened.child("mappo")
    tracker = MlflowTracker(uri, child)
    for step in range(1200):  # more than one request takes
        tracker.log_metrics({"mappo/reward": step / 1200}, step)
    tracker.log_table([{"a": 1}, {"a": 2, "b": 3}], "rows")
    tracker.log_text("hello", "note.txt")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    tracker.log_model(tmp_path / "model")
    tracker.log_input("prepare", tmp_path, "abc", "training")
    opened.end_child(child, {"mappo/final_reward": 0.5}, "FINISHED")
    opened.add({"mappo/final_reward": 0.5})
    opened.end("FINISHED")

    mlflow = client(uri)
    assert len(mlflow.get_metric_history(child, "mappo/reward")) == 0  # not flushed: the stage's process does that
    tracker.flush()
    history = mlflow.get_metric_history(child, "mappo/reward")
    assert [point.step for point in history] == list(range(1200))
    stage, parent = mlflow.get_run(child), mlflow.get_run(opened.run.run_id)
    assert stage.data.tags["mlflow.parentRunId"] == opened.run.run_id
    assert stage.data.metrics["mappo/final_reward"] == parent.data.metrics["mappo/final_reward"] == 0.5
    assert {file.path for file in mlflow.list_artifacts(child)} == {"rows.json", "note.txt", "model"}
    assert [entry.dataset.digest for entry in stage.inputs.dataset_inputs] == ["abc"]
    assert parent.data.params == {
        "seed": "0",
        "mappo.num_steps": "5",
        "mappo.kl_target": "None",
        "agents.chain": "['generator']",
    }
    assert (stage.info.status, parent.info.status) == ("FINISHED", "FINISHED")


def test_a_table_logged_again_grows(opened: Pipeline, uri: str, tmp_path: Path) -> None:
    """Samples of every so many steps end up in one table, and the run's page knows it as one."""
    child = opened.child("mappo")
    for step in (25, 50):
        rows = [{"step": step, "question": "Where ?", "passages": "✓ [p1] Oslo\n– [p2] …", "reward": 0.5}] * 2
        MlflowTracker(uri, child).log_table(rows, "episodes")
    mlflow = client(uri)
    table = json.loads(Path(mlflow.download_artifacts(child, "episodes.json", str(tmp_path))).read_text())
    assert table["columns"] == ["step", "question", "passages", "reward"]
    assert [row[0] for row in table["data"]] == [25, 25, 50, 50]
    assert table["data"][0][1:] == table["data"][3][1:] == ["Where ?", "✓ [p1] Oslo\n– [p2] …", 0.5]
    tags = json.loads(mlflow.get_run(child).data.tags["mlflow.loggedArtifacts"])
    assert tags == [{"path": "episodes.json", "type": "table"}]


def test_a_retry_finds_its_parent_and_closes_what_was_killed(opened: Pipeline, uri: str, request) -> None:
    child = opened.child("mappo")
    again = open_pipeline(
        uri, request.node.name, name="demo", flow_run_id=f"flow-{request.node.name}", settings={"seed": 0, "new": 1}
    )
    assert again.run.run_id == opened.run.run_id
    mlflow = client(uri)
    assert mlflow.get_run(child).info.status == "KILLED"
    assert mlflow.get_run(again.run.run_id).data.params["new"] == "1"


def test_metric_names_that_mlflow_refuses_are_spelled_out(opened: Pipeline, uri: str) -> None:
    opened.add({"retriever/recall@10": 0.5, "eval/F1 (%)": 50.0})
    assert client(uri).get_run(opened.run.run_id).data.metrics == {"retriever/recall_at_10": 0.5, "eval/F1 ___": 50.0}


def test_large_models_are_named_not_copied(
    opened: Pipeline, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MAX_MODEL_BYTES", 3)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("four")
    opened.run.log_model(tmp_path / "model")
    assert client(uri).list_artifacts(opened.run.run_id) == []
    assert client(uri).get_run(opened.run.run_id).data.tags["jointrag.model_path"] == str(tmp_path / "model")


def test_a_server_that_is_gone_costs_no_work(
    uri: str, opened: Pipeline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker(uri, opened.run.run_id)
    working = tracker._client

    class Gone:
        def log_batch(self, *args: Any, **kwargs: Any) -> None:
            raise ConnectionError("refused")

    tracker._client = Gone()
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            tracker.log_metrics({"mappo/kl": float(step)}, step)
            tracker.flush()
    assert caplog.text.count("could not be written") == 1
    tracker._client = working
    tracker.flush()
    assert len(working.get_metric_history(opened.run.run_id, "mappo/kl")) == 3


def test_a_server_that_is_not_there_is_said_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be used"):
        open_pipeline("http://127.0.0.1:9", "x", name="demo", flow_run_id="1", settings={})
