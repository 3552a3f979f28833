"""Where metrics go: MLflow, or nothing. The only file that imports mlflow.

Stages take a `tracker: Tracker` and never ask which one it is. In MLflow a flow run is a parent run and every stage
that really ran is a child of it:

    pipeline = open_pipeline(uri, "jointrag", name="demo", flow_run_id=…, settings={…})
    child = pipeline.child("mappo")          # its id travels to the stage's process
    tracker = MlflowTracker(uri, child)      # there
    pipeline.end_child(child, metrics)       # metrics land on the parent too, so that Compare shows them
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from jointrag.traces import Trace

logger = logging.getLogger(__name__)

MAX_MODEL_BYTES = 500 * 2**20  # larger checkpoints stay where they are; the run keeps their path
BATCH = 500  # metric values per request; MLflow takes 1,000 at most
FLUSH_S = 2.0
RETRY_S = 60.0
FLOW_RUN_TAG = "prefect.flow_run_id"
KIND_TAG = "jointrag.kind"


class Tracker(Protocol):
    """What a stage may record. Metric names carry a slash: `mappo/kl`."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None: ...

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file or a whole folder with the run."""
        ...

    def log_table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Keep rows as a table; `name` without an extension. Rows of a name that is there already are added to it."""
        ...

    def log_text(self, text: str, name: str) -> None:
        """Keep a text; `name` is a file name."""
        ...


class NoTracker:
    """Records nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        pass

    def log_artifact(self, path: Path, folder: str = "") -> None:
        pass

    def log_table(self, rows: list[dict[str, Any]], name: str) -> None:
        pass

    def log_text(self, text: str, name: str) -> None:
        pass


class MlflowTracker:
    """Writes into one MLflow run, given by id. Step metrics are collected and sent every two seconds.

    A tracking server that stops answering must not cost hours of training: what cannot be sent is reported once, kept,
    and tried again every minute.
    """

    def __init__(self, uri: str, run_id: str) -> None:
        self.run_id = run_id
        self._client = _client(uri)
        self._waiting: list[Any] = []
        self._flush_at_s = time.monotonic() + FLUSH_S
        self._reported = False

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._waiting += [Metric(_metric_name(name), float(value), now_ms, step) for name, value in metrics.items()]
        if time.monotonic() >= self._flush_at_s:
            self.flush()

    def flush(self) -> None:
        """Send what is waiting."""
        self._flush_at_s = time.monotonic() + FLUSH_S
        while self._waiting:
            batch = self._waiting[:BATCH]
            if not self._send(self._client.log_batch, metrics=batch):
                self._flush_at_s = time.monotonic() + RETRY_S
                return
            del self._waiting[: len(batch)]

    def log_artifact(self, path: Path, folder: str = "") -> None:
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._send(send, str(path), folder or None)

    def log_table(self, rows: list[dict[str, Any]], name: str) -> None:
        columns = {column: [row.get(column) for row in rows] for row in rows for column in row}
        self._send(self._client.log_table, columns, f"{name}.json")

    def log_text(self, text: str, name: str) -> None:
        self._send(self._client.log_text, text, name)

    def log_params(self, params: dict[str, Any]) -> None:
        """Settings by dotted name. Values that MLflow holds already are left alone."""
        from mlflow.entities import Param

        known = self._client.get_run(self.run_id).data.params
        new = [Param(name, str(value)[:6000]) for name, value in params.items() if name not in known]
        for start in range(0, len(new), 100):
            self._send(self._client.log_batch, params=new[start : start + 100])

    def log_input(self, name: str, path: Path, digest: str, context: str) -> None:
        """Name a data set this run reads."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(name=name, digest=digest[:32], source_type="local", source=str(path))
        self._send(self._client.log_inputs, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

    def log_model(self, folder: Path) -> None:
        """Keep a checkpoint folder, or its path where it is too large to copy."""
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self.set_tag("jointrag.model_path", str(folder))
        if size < MAX_MODEL_BYTES:
            self.log_artifact(folder, "model")

    def set_tag(self, name: str, value: str) -> None:
        self._send(self._client.set_tag, name, value)

    def _send(self, call: Any, *args: Any, **kwargs: Any) -> bool:
        try:
            call(self.run_id, *args, **kwargs)
        except Exception as error:  # whatever the server or the network did
            if not self._reported:
                logger.warning("MLflow run %s could not be written (%s); the work goes on", self.run_id, error)
                self._reported = True
            return False
        return True


class Pipeline:
    """A flow run in MLflow: the parent run and its children."""

    def __init__(self, uri: str, experiment_id: str, run_id: str) -> None:
        self.uri = uri
        self.experiment_id = experiment_id
        self.run = MlflowTracker(uri, run_id)
        self._client = _client(uri)

    def child(self, stage: str) -> str:
        """Begin a stage's run; returns its id."""
        tags = {"mlflow.parentRunId": self.run.run_id, KIND_TAG: "stage", "jointrag.stage": stage}
        return self._client.create_run(self.experiment_id, tags=tags, run_name=stage).info.run_id

    def end_child(
        self, run_id: str, metrics: dict[str, float], status: Literal["FINISHED", "FAILED", "KILLED"]
    ) -> None:
        """Close a stage's run with its final metrics."""
        tracker = MlflowTracker(self.uri, run_id)
        tracker.log_metrics(metrics, step=0)
        tracker.flush()
        _quietly(self._client.set_terminated, run_id, status)

    def add(self, metrics: dict[str, float]) -> None:
        """Put a stage's final metrics on the parent."""
        self.run.log_metrics(metrics, step=0)
        self.run.flush()

    def log_traces(self, traces: Iterable[Trace]) -> None:
        """Show questions' ways through the chain in the trace view of this run."""
        import mlflow

        known = os.environ.get("MLFLOW_TRACKING_URI")
        try:
            mlflow.set_tracking_uri(self.uri)  # traces go where the whole process's go, not where the client's do
            for trace in traces:
                trace.send(self._client, self.experiment_id, self.run.run_id)
            mlflow.flush_trace_async_logging()
        except Exception as error:
            logger.warning("MLflow got no traces (%s)", error)
        finally:
            mlflow.set_tracking_uri(known)  # type: ignore[arg-type]  # None: forget it

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        self.run.flush()
        _quietly(self._client.set_terminated, self.run.run_id, status)

    def address(self) -> str | None:
        """Where a browser compares this run with the ones before it. None for a store without a server."""
        if not self.uri.startswith("http"):
            return None
        runs = self._client.search_runs(
            [self.experiment_id],
            f"tags.`{KIND_TAG}` = 'pipeline' and attributes.status = 'FINISHED'",
            max_results=5,
            order_by=["attributes.start_time DESC"],
        )
        ids = list(dict.fromkeys([self.run.run_id, *(run.info.run_id for run in runs)]))
        if len(ids) == 1:
            return f"{self.uri}/#/experiments/{self.experiment_id}/runs/{ids[0]}"
        quoted = ",".join(f"%22{run_id}%22" for run_id in ids)
        return f"{self.uri}/#/compare-runs?runs=[{quoted}]&experiments=[%22{self.experiment_id}%22]"


def open_pipeline(
    uri: str,
    experiment: str,
    *,
    name: str,
    flow_run_id: str,
    settings: dict[str, Any],
    parent_flow_run_id: str | None = None,
) -> Pipeline:
    """The parent run of a flow run: a new one, or after a retry the one it had. `settings`: the resolved config.

    A subflow's run becomes a child of the run of `parent_flow_run_id`, if that is in the same experiment.

    Raises ValueError when MLflow cannot be reached: better now than without records at the end.
    """
    from mlflow.exceptions import MlflowException

    client = _client(uri)
    try:
        found = client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
        if run_id := _run_of(client, experiment_id, flow_run_id):
            client.update_run(run_id, status="RUNNING")
            _close_children(client, experiment_id, run_id)
        else:
            tags = {FLOW_RUN_TAG: flow_run_id, KIND_TAG: "pipeline"}
            if parent_flow_run_id and (parent := _run_of(client, experiment_id, parent_flow_run_id)):
                tags["mlflow.parentRunId"] = parent
            run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    except MlflowException as error:
        raise ValueError(
            f"MLflow at {uri} cannot be used ({error}); start it (make up), or run without: "
            "unset tracking.mlflow_uri and MLFLOW_TRACKING_URI"
        ) from None
    pipeline = Pipeline(uri, experiment_id, run_id)
    pipeline.run.log_params(dict(flatten(settings)))
    return pipeline


def _run_of(client: Any, experiment_id: str, flow_run_id: str) -> str | None:
    """The MLflow run of a flow run, if it has one."""
    found = client.search_runs([experiment_id], f"tags.`{FLOW_RUN_TAG}` = '{flow_run_id}'", max_results=1)
    return found[0].info.run_id if found else None


def _close_children(client: Any, experiment_id: str, run_id: str) -> None:
    """Stages of a try that was killed outright had no chance to say so."""
    unfinished = f"tags.mlflow.parentRunId = '{run_id}' and attributes.status = 'RUNNING'"
    for child in client.search_runs([experiment_id], unfinished):
        client.set_terminated(child.info.run_id, "KILLED")


def flatten(settings: dict[str, Any], where: str = "") -> Iterable[tuple[str, Any]]:
    """Nested settings as dotted names and values."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


def _metric_name(name: str) -> str:
    """MLflow takes letters, digits and _-.:/ only: retriever/recall@10 → retriever/recall_at_10."""
    return re.sub(r"[^\w\-.:/ ]", "_", name.replace("@", "_at_"), flags=re.ASCII)


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # the defaults wait for minutes: too long for a training loop whose records are the smaller half of the matter
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("alembic", "mlflow.tracing.export.async_export_queue"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _quietly(call: Any, *args: Any) -> None:
    try:
        call(*args)
    except Exception as error:
        logger.warning("MLflow could not be written (%s)", error)
