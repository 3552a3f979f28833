"""The corpus embedded on a Dask cluster: the index is the one that is built here."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from flows.local_services import ROOT, Services
from flows.temporary_server import temporary_server
from jointrag.index import load


@pytest.fixture
def corpus(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(world / "corpus.jsonl", tmp_path / "corpus.jsonl"))


@pytest.fixture
def prefect_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with temporary_server(Services(tmp_path / "services")) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
        yield


def shards_embedded() -> list[str]:
    """The names of all tasks that embedded one, as the Prefect server knows them."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return sorted(run.name for run in client.read_task_runs() if run.name.startswith("shard "))


def test_an_index_from_shards_that_two_workers_made(
    corpus: Path, retriever_dir: Path, tmp_path: Path, prefect_server: None
) -> None:
    from distributed import LocalCluster
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

    from flows.build_index import build_index

    settings = {
        "dataset.path": str(corpus),
        "retriever.encoder.name": str(retriever_dir / "model"),
        "runtime.device": "cpu",
        "index.shard_size": 20,
        "index.num_recall_queries": 0,
    }
    changes: dict[Any, Any] = {
        PREFECT_API_URL: os.environ["PREFECT_API_URL"],
        PREFECT_HOME: os.environ["PREFECT_HOME"],
        PREFECT_LOGGING_TO_API_ENABLED: False,
    }
    with (
        temporary_settings(changes),
        cast(Any, LocalCluster)(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        on_dask = {"runtime.dask_scheduler": cluster.scheduler_address, "workspace": str(tmp_path / "there")}
        there = build_index("index", {**settings, **on_dask})
        assert shards_embedded() == [f"shard {number}" for number in range(7)]
        here = build_index("index", {**settings, "workspace": str(tmp_path / "here")})
        assert build_index("index", {**settings, **on_dask}) == there
        assert len(shards_embedded()) == 7
    one, other = load(Path(there)), load(Path(here))
    vectors = np.random.default_rng(0).normal(size=(5, one.info.dim)).astype(np.float32)
    assert one.search(vectors, 7) == other.search(vectors, 7)
    assert not list((tmp_path / "there" / "data" / "index").glob("*.shards"))
