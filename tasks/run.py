"""One run of a flow: its settings, its records, and how it builds a stage.

A flow opens a run and builds its stages with it (tasks.stages); for every one `Run.build` works out the key, takes the
finished output if there is one, and otherwise makes it: as a Prefect task with a child run in MLflow, in a process of
its own where the stage trains something.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml
from prefect import Task
from prefect.exceptions import CancelledRun, TerminationSignal
from prefect.runtime import flow_run
from pydantic import BaseModel

from jointrag import artifacts, tracking
from jointrag.artifacts import Artifact, Recipe
from jointrag.config import PipelineConfig
from jointrag.jsonl import write_atomically
from jointrag.runs import CONFIG, RUNS, StageRecord
from tasks.call import Call, StageFailed, execute
from tasks.logs import deliver_logs, send_to_prefect

logger = logging.getLogger(__name__)
DATA_SETS = ("prepare", "agent_data")


@dataclass(frozen=True)
class Stage:
    """What is fixed about a stage."""

    name: str
    function: str
    """`module:name`, imported only when the stage really runs."""
    version: int = 1
    """Raised when the code changes what it writes for the same settings: older outputs are then made again."""
    takes: frozenset[str] = frozenset()
    """Which of seed, device, tracker and num_processes the function takes; the last where it starts them itself."""
    own_process: bool = True
    parallel: bool = False
    """Several processes can share it: runtime.num_processes."""
    sharded: bool = False
    """They can also share the model: runtime.accelerate_config."""
    resumable: bool = False


class Server(Protocol):
    """The retrieval server as stages see it; it starts when the first of them needs it."""

    @property
    def inputs(self) -> Mapping[str, Artifact]:
        """What it answers from: the index, and a reranker where there is one."""
        ...

    def start(self) -> str:
        """Its address."""
        ...

    def failed(self) -> str | None:
        """Why it is gone for good."""
        ...


@dataclass
class Run:
    """A flow run. `stages`: the names in order, for the numbers on the console."""

    config: PipelineConfig
    id: str
    folder: Path
    stages: tuple[str, ...]
    force: frozenset[str] = frozenset()
    pipeline: tracking.Pipeline | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    """Per stage: stage, seconds, cached, bytes, metrics. For the report."""
    outputs: StageRecord = field(kw_only=True)
    """Which artifacts its stages were, for `jointrag ask`."""

    def build(
        self,
        stage: Stage,
        sections: Mapping[str, BaseModel],
        inputs: Mapping[str, Artifact | Mapping[str, Artifact]],
        *,
        server: Server | None = None,
        values: Mapping[str, Any] | None = None,
        sources: Mapping[str, Artifact] | None = None,
    ) -> Artifact:
        """The output of `stage`: the finished one, or a new one.

        `sections`, `inputs` and `values` become the function's arguments; the values are not part of the key, and
        `sources` are nothing but. With a `server` the function gets `retrieval_url`, and the key what the server
        answers from.
        """
        flat = dict(_flat(inputs)) | dict(sources or {}) | dict(server.inputs if server else {})
        seed = self.config.seed if "seed" in stage.takes else None
        recipe = Recipe(stage.name, stage.version, sections, seed, flat, stage.resumable)
        forced = stage.name in self.force and not self._made_here(recipe)
        finished = None if forced else artifacts.find(recipe, self.config.workspace)
        arguments = dict(values or {})
        if server and finished is None:
            arguments["retrieval_url"] = server.start()
        if finished is None and stage.own_process:
            self.say(stage.name, "…")
        start = time.monotonic()

        def make(inputs: dict[str, Artifact]) -> Artifact:
            call = self._call(stage, sections, arguments, server)
            return self._make(stage, recipe, forced, call, given)

        given = inputs
        artifact = self._task(make, recipe, refresh=finished is None)(inputs=flat)
        if finished and finished.fingerprint != artifact.fingerprint:  # what Prefect remembers is older than the files
            artifact = self._task(make, recipe, refresh=True)(inputs=flat)
        self._record(stage.name, artifact, None if finished else time.monotonic() - start)
        return artifact

    def has_to_build(self, stage: Stage, sections: Mapping[str, BaseModel], inputs: Mapping[str, Artifact]) -> bool:
        """Whether `build` would make it, rather than take what is finished."""
        recipe = Recipe(stage.name, stage.version, sections, None, inputs, stage.resumable)
        if stage.name in self.force and not self._made_here(recipe):
            return True
        return artifacts.find(recipe, self.config.workspace) is None

    def say(self, stage: str, what: str) -> None:
        """A line about a stage on the console and in the run's log."""
        width = max(map(len, self.stages))
        logger.info("[%d/%d] %-*s %s", self.stages.index(stage) + 1, len(self.stages), width, stage, what)

    def _task(self, make: Any, recipe: Recipe, refresh: bool) -> Task[..., Artifact]:
        where = artifacts.stage_key(recipe.stage, 0, {"path": str(recipe.path(self.config.workspace))}, {})
        key = f"{recipe.stage}-{where}"  # per workspace: two of them hold the same output at different paths
        return Task(
            fn=make,
            name=recipe.stage,
            task_run_name=recipe.stage,
            persist_result=True,
            result_serializer="json",
            cache_key_fn=lambda context, parameters: key,
            refresh_cache=refresh,
        )

    def _made_here(self, recipe: Recipe) -> bool:
        """Whether this very flow run made the output already: a retry does not force it again."""
        path = recipe.path(self.config.workspace)
        return artifacts.damage(path) is None and artifacts.read_manifest(path)["run_id"] == self.id

    def _call(self, stage: Stage, sections: Mapping[str, BaseModel], values: dict[str, Any], server: Any) -> Call:
        runtime = self.config.runtime
        given = {"seed": self.config.seed, "device": runtime.device, "num_processes": runtime.num_processes}
        return Call(
            function=stage.function,
            sections=sections,
            values=values | {name: value for name, value in given.items() if name in stage.takes},
            takes_tracker="tracker" in stage.takes,
            num_threads=runtime.num_threads,
            own_process=stage.own_process,
            num_processes=runtime.num_processes if stage.parallel else 1,
            accelerate_config=runtime.accelerate_config if stage.sharded else None,
            failed=server.failed if server else lambda: None,
        )

    def _make(self, stage: Stage, recipe: Recipe, forced: bool, call: Call, inputs: Mapping[str, Any]) -> Artifact:
        workspace = self.config.workspace
        if not forced and (finished := artifacts.find(recipe, workspace)):
            return finished
        child = self.pipeline.child(stage.name) if self.pipeline else None
        uri = self.pipeline.uri if self.pipeline else None

        def make(out: Path) -> dict[str, float]:
            try:
                return execute(
                    call,
                    inputs,
                    stage=stage.name,
                    out=out,
                    folder=self.folder,
                    tracking_uri=uri,
                    tracking_id=child,
                )
            except StageFailed as error:
                if stage.resumable:
                    raise StageFailed(
                        f"{error}\nits checkpoints are kept in {out}; once the cause is gone, "
                        "run it again to go on from there"
                    ) from None
                raise

        try:
            artifact = artifacts.produce(recipe, workspace, make, force=forced, run_id=self.id, tracking_id=child)
        except BaseException as error:
            if self.pipeline and child:
                self.pipeline.end_child(child, {}, _status(error))
            raise
        if self.pipeline and child:
            self._log_files(child, recipe, artifact)
            self.pipeline.end_child(child, artifact.metrics, "FINISHED")
        return artifact

    def _log_files(self, child: str, recipe: Recipe, artifact: Artifact) -> None:
        assert self.pipeline is not None
        tracker = tracking.MlflowTracker(self.pipeline.uri, child)
        for source in recipe.inputs.values():
            if source.stage in DATA_SETS:
                tracker.log_input(source.stage, source.path, source.fingerprint, recipe.stage)
        if (artifact.path / "model").is_dir():
            tracker.log_model(artifact.path / "model")

    def _record(self, stage: str, artifact: Artifact, seconds: float | None) -> None:
        self.outputs.add(stage, artifact.path)
        manifest = artifacts.read_manifest(artifact.path)
        cached = seconds is None
        took_s = manifest["seconds"] if seconds is None else seconds
        size = sum(file["size"] for file in manifest["files"].values())
        self.records.append(
            {"stage": stage, "seconds": took_s, "cached": cached, "bytes": size, "metrics": artifact.metrics}
        )
        took = f"finished earlier ({took_s:.1f} s then)" if cached else f"{took_s:.1f} s"
        self.say(stage, f"{took}, in {artifact.path}")
        if self.pipeline:
            self.pipeline.add(artifact.metrics | {f"{stage}/seconds": took_s})
            if cached and manifest["tracking_id"]:
                self.pipeline.run.set_tag(f"jointrag.{stage}.made_by", manifest["tracking_id"])
            if stage == "prepare":
                self.pipeline.run.log_input("prepare", artifact.path, artifact.fingerprint, "pipeline")


@contextmanager
def open_run(
    config: PipelineConfig, name: str, stages: tuple[str, ...], force: Sequence[str], mlflow_uri: str | None
) -> Iterator[Run]:
    """The run of the flow that is executing now. Its folder in runs/flows/ holds the resolved settings, the logs and
    which artifacts the stages were (jointrag.runs). A subflow's run is a child of its flow's in MLflow as well."""
    send_to_prefect()
    run_id, run_name = str(flow_run.id), str(flow_run.name)
    workspace = config.workspace.resolve()
    folder = workspace / RUNS / f"{name}-{run_name}"
    resolved = config.model_dump(mode="json")
    write_atomically(folder / CONFIG, yaml.safe_dump(resolved, sort_keys=False))
    outputs = StageRecord(folder, workspace)
    outputs.begin()
    pipeline = None
    if mlflow_uri:
        pipeline = tracking.open_pipeline(
            mlflow_uri,
            config.tracking.experiment,
            name=f"{name} {run_name}",
            flow_run_id=run_id,
            settings=resolved,
            parent_flow_run_id=flow_run.parent_flow_run_id,
        )
        pipeline.run.log_artifact(folder / CONFIG)
    try:
        yield Run(config, run_id, folder, stages, frozenset(force), pipeline, outputs=outputs)
        outputs.finish()
    except BaseException as error:
        if pipeline:
            pipeline.end(_status(error))
        raise
    else:
        if pipeline:
            pipeline.end("FINISHED")
    finally:
        deliver_logs()


def _status(error: BaseException) -> Literal["FAILED", "KILLED"]:
    return "KILLED" if isinstance(error, KeyboardInterrupt | CancelledRun | TerminationSignal) else "FAILED"


def _flat(inputs: Mapping[str, Artifact | Mapping[str, Artifact]]) -> Iterator[tuple[str, Artifact]]:
    for name, value in inputs.items():
        if isinstance(value, Artifact):
            yield name, value
        else:
            for inner, artifact in value.items():
                yield f"{name}.{inner}", artifact


__all__ = ["Run", "Server", "Stage", "StageFailed", "open_run"]
