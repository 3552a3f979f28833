"""The corpus embedded by a Dask cluster: a Prefect task for each shard, on machines that share the workspace.

    with embedded(run, prepared, retriever):
        ...                 # the index stage, which takes the shards over

Workers need the same packages and PREFECT_API_URL. A shard that is finished is not made again, whoever made it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefect import flow, task

from jointrag import index
from jointrag.artifacts import Artifact, stage_key
from jointrag.encoder_backends import Backend
from jointrag.encoders import Encoder
from jointrag.index import Shards
from tasks.run import Run


@contextmanager
def embedded(run: Run, prepared: Artifact, retriever: Artifact) -> Iterator[None]:
    """For as long as the block lasts, all shards of the index lie beside the indexes of the workspace."""
    config, runtime = run.config.index, run.config.runtime
    key = stage_key("vectors", 1, {"config": config}, {"of": prepared.fingerprint, "by": retriever.fingerprint})
    folder = run.config.workspace.resolve() / "data" / "index" / f"{key}.shards"
    shards = index.plan(config, prepared=prepared.path, retriever=retriever.path, out=folder)
    if missing := shards.missing():
        run.say("index", f"{len(missing)} shards of {len(shards)} on Dask, {runtime.dask_scheduler}")
        _encode_all(str(runtime.dask_scheduler), shards.folder, missing, runtime.device)
    yield
    shutil.rmtree(folder)  # an error leaves what is finished


def _encode_all(scheduler: str, folder: Path, missing: list[int], device: str) -> None:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError:
        raise ValueError("runtime.dask_scheduler needs prefect-dask: pip install 'jointrag[dask]'") from None

    runner: Any = DaskTaskRunner(address=scheduler)

    @flow(name="embed-corpus", task_runner=runner)
    def embed_corpus() -> None:
        done = [
            _encode.with_options(task_run_name=f"shard {number}").submit(str(folder), number, device)
            for number in missing
        ]
        for one in done:
            one.result()

    embed_corpus()


@task(name="embed-shard", retries=2, persist_result=False)
def _encode(folder: str, number: int, device: str) -> None:
    """Runs on a worker."""
    shards = Shards.open(Path(folder))
    shards.encode(number, _encoder(str(shards.model), device, shards.details.encoder_backend))


@lru_cache(maxsize=1)  # a worker makes many shards
def _encoder(model: str, device: str, backend: Backend) -> Encoder:
    return Encoder.load(Path(model), device, backend)
