"""Several retrieval servers: started together, and every process asks its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jointrag.artifacts import Artifact
from jointrag.config import PipelineConfig
from tasks import child, serve

INDEX = Artifact("index", Path("index"), "fingerprint")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The servers that were started, in order; none really is."""
    servers: list[SimpleNamespace] = []

    @contextmanager
    def serving(config: Any, *, index: Path, log_path: Path, **kwargs: Any) -> Iterator[SimpleNamespace]:
        server = SimpleNamespace(url=f"http://host:{config.port}", log=log_path.name, failed=None, runs=True)
        servers.append(server)
        yield server
        server.runs = False

    monkeypatch.setattr(serve, "serving", serving)
    monkeypatch.setattr(serve, "Task", lambda fn, **kwargs: fn)
    return servers


def run(**server: Any) -> Any:
    config = PipelineConfig.model_validate({"server": server})
    return SimpleNamespace(config=config, folder=Path("run"), records=[], say=lambda *what: None)


def test_one_server_by_default(started: list[SimpleNamespace]) -> None:
    with serve.RetrievalServer(run(port=80), INDEX) as server:
        assert server.start() == server.start() == "http://host:80"
    assert [(one.log, one.runs) for one in started] == [("retrieval_server.log", False)]


def test_replicas_have_ports_and_logs_of_their_own(started: list[SimpleNamespace]) -> None:
    with serve.RetrievalServer(run(port=80, replicas=2), INDEX) as server:
        assert server.failed() is None
        assert server.start() == server.start() == "http://host:80,http://host:81"
        started[1].failed = "the second died twice"
        assert server.failed() == "the second died twice"
    assert [one.log for one in started] == ["retrieval_server.log", "retrieval_server-2.log"]
    assert not any(one.runs for one in started)


@pytest.mark.parametrize("rank, address", [(None, "a"), ("0", "a"), ("1", "b"), ("2", "a")])
def test_processes_are_spread_over_the_servers(rank: str | None, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    asked = child.Spec(function=f"{__name__}:stage", out="out", values={"retrieval_url": "a,b"})
    assert child.call(asked) == {"asked": address}


def stage(*, retrieval_url: str, out: Path) -> dict[str, str]:
    return {"asked": retrieval_url}
