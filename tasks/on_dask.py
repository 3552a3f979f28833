"""The corpus embedded by a Dask cluster: a Prefect task for each shard, on machines that share the workspace.

    embed(run, prepared, retriever)     # before the index stage, which takes the shards over

Workers need the same packages and PREFECT_API_URL. A shard that is finished is not made again, whoever made it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, task

from jointrag import corpus
from jointrag.artifacts import Artifact, stage_key
from jointrag.config import EmbeddedCorpus
from jointrag.encoders import Encoder
from jointrag.index import Shards
from jointrag.jsonl import write_atomically
from tasks.run import Run

_CORPUS, _SHARDS, _FINGERPRINT = "corpus", "vectors", "corpus.sha256"


@contextmanager
def embedded(run: Run, config: EmbeddedCorpus, prepared: Artifact, retriever: Artifact) -> Iterator[None]:
    """For as long as the block lasts, all shards that `config` asks for lie beside the indexes of the workspace."""
    inputs = {"prepared": prepared.fingerprint, "retriever": retriever.fingerprint}
    key = stage_key("vectors", 1, {"config": config}, inputs)
    folder = run.config.workspace.resolve() / "data" / "index" / f"{key}.shards"
    shards = Shards.plan(
        folder / _SHARDS,
        corpus=folder / _CORPUS,
        corpus_fingerprint=_corpus(prepared.path / "corpus.jsonl", folder),
        model=retriever.path / "model",
        shard_size=config.shard_size,
        truncate_dim=config.truncate_dim,
    )
    if missing := shards.missing():
        run.say("index", f"{len(missing)} shards of {len(shards)} on Dask, {run.config.runtime.dask_scheduler}")
        _encode_all(str(run.config.runtime.dask_scheduler), shards.folder, missing, config, run.config.runtime.device)
    yield
    shutil.rmtree(folder)  # an error leaves what is finished


def _corpus(source: Path, folder: Path) -> str:
    """The corpus in `folder`, made once; its fingerprint."""
    written = folder / _FINGERPRINT
    if not written.is_file():
        write_atomically(written, corpus.build(source, folder / _CORPUS))
    return written.read_text(encoding="utf-8")


def _encode_all(scheduler: str, folder: Path, missing: list[int], config: EmbeddedCorpus, device: str) -> None:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ModuleNotFoundError:
        raise ValueError("runtime.dask_scheduler needs prefect-dask: pip install 'jointrag[dask]'") from None

    runner: Any = DaskTaskRunner(address=scheduler)

    @flow(name="embed-corpus", task_runner=runner)
    def embed_corpus() -> None:
        done = [
            _encode.with_options(task_run_name=f"shard {number}").submit(str(folder), number, device, config.batch_size)
            for number in missing
        ]
        for one in done:
            one.result()

    embed_corpus()


@task(name="embed-shard", retries=2, persist_result=False)
def _encode(folder: str, number: int, device: str, batch_size: int) -> None:
    """Runs on a worker."""
    shards = Shards.open(Path(folder))
    shards.encode(number, _encoder(str(shards.model), device), batch_size)


_ENCODERS: dict[tuple[str, str], Encoder] = {}  # of this process: a worker makes many shards


def _encoder(model: str, device: str) -> Encoder:
    if (model, device) not in _ENCODERS:
        _ENCODERS.clear()
        _ENCODERS[model, device] = Encoder.load(Path(model), device)
    return _ENCODERS[model, device]
