"""Another index, or another state of it, while clients ask: no request is dropped, none is answered from two."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from jointrag.config import IndexConfig, ServerConfig
from jointrag.index import build
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.retrieval import HttpRetriever, InProcessRetriever, Retriever
from jointrag.types import Hit, Passage
from retrieval_server.service import Service
from tests.serving import listening, wait_until

TOKEN = {"Authorization": "Bearer secret"}


class Named:
    """Says which index it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(Passage(self.name, "", query), 1.0)] for query in queries]


class Indexes:
    """Opens folders by name, "broken…" not; `gate` holds it back."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def open(self, path: Path) -> tuple[Retriever, dict[str, object]]:
        assert self.gate.wait(20)
        if path.name.startswith("broken"):
            raise ValueError(f"{path}: damaged; build the index again")
        self.opened.append(path.name)
        return Named(f"{path.name} {len(self.opened)}"), {"num_passages": 1}


@pytest.fixture
def indexes() -> Indexes:
    return Indexes()


@pytest.fixture
def service(indexes: Indexes) -> Service:
    service = Service(ServerConfig(), indexes.open)
    service.load(Path("first"))
    return service


def reload(url: str, status: int, **body: str | bool) -> dict[str, object]:
    answer = requests.post(f"{url}/v1/reload", json=body, headers=TOKEN, timeout=30)
    assert answer.status_code == status, answer.text
    return answer.json()


def answered_by(url: str, query: str = "q") -> str:
    return HttpRetriever(url, token="secret").search([query], 1)[0][0].passage.id


def test_the_same_folder_and_another_one(service: Service) -> None:
    with listening(service, token="secret") as url:
        assert answered_by(url) == "first 1"
        assert reload(url, 200, wait=True) == {"status": "done", "index": "first", "generation": 2}
        assert answered_by(url) == "first 2"  # not from the cache
        assert reload(url, 200, wait=True, index="second")["generation"] == 3
        assert answered_by(url) == "second 3"
        info = requests.get(f"{url}/info", headers=TOKEN, timeout=10).json()
        assert (info["index"], info["generation"]) == ("second", 3)
        assert "retrieval_index_generation 3.0" in requests.get(f"{url}/metrics", headers=TOKEN, timeout=10).text


def test_one_that_cannot_be_loaded_leaves_the_old_one_and_says_why(service: Service, indexes: Indexes) -> None:
    with listening(service, token="secret") as url:
        failed = reload(url, 422, wait=True, index="broken index")
        assert failed == {
            "status": "failed",
            "index": "broken index",
            "error": "broken index: damaged; build the index again",
        }
        assert answered_by(url) == "first 1"
        info = requests.get(f"{url}/info", headers=TOKEN, timeout=10).json()
        assert (info["index"], info["generation"], info["reload"]) == ("first", 1, failed)
        assert reload(url, 200, wait=True)["generation"] == 2


def test_one_at_a_time_in_the_background(service: Service, indexes: Indexes) -> None:
    with listening(service, token="secret") as url:
        indexes.gate.clear()
        assert reload(url, 202, index="second") == {"status": "loading", "index": "second"}
        assert reload(url, 409, index="third")["error"] == "second is being loaded already"
        assert answered_by(url) == "first 1"
        indexes.gate.set()
        wait_until(lambda: service.info()["reload"] == {"status": "done", "index": "second", "generation": 2})
        assert answered_by(url) == "second 2"


def test_a_request_of_before_is_answered_by_the_index_of_before(service: Service) -> None:
    """It holds on to the index it came to, though another is served when its turn comes."""
    old = service.served
    gate, started = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        assert gate.wait(10)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(service._batcher.run, block, 1)
        assert started.wait(10)
        before = pool.submit(service.search, ["before"], 1)
        while service._batcher.num_queued < 2:
            assert not before.done()
        pool.submit(service.load, Path("second"), 2)
        gate.set()
        assert before.result(10)[0][0].passage.id == "first 1"
    assert service.search(["before"], 1)[0][0].passage.id == "second 2"  # the old answer is in the old cache
    assert old.cache.find([("before", 1)])
    service.close()


def test_a_full_queue_does_not_keep_a_new_index_out(indexes: Indexes) -> None:
    service = Service(ServerConfig(max_queued_queries=1, max_queries_per_request=1), indexes.open)
    service.load(Path("first"))
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        blocked = pool.submit(service._batcher.run, gate.wait, 1)
        wait_until(lambda: service._batcher.num_queued == 1)
        assert service.reload(Path("second"))["status"] == "loading"
        gate.set()
        assert blocked.result(10)
    wait_until(lambda: service.served.generation == 2)
    service.close()


def test_many_swaps_under_load_drop_nothing(service: Service) -> None:
    stop = threading.Event()
    seen: list[set[str]] = []

    def ask(number: int) -> int:
        session, count = requests.Session(), 0
        session.headers.update(TOKEN)
        while not stop.is_set():
            body = {"queries": [f"{number} {count}", f"{number} {count} too", "the same"], "k": 1}
            answer = session.post(f"{url}/v1/search", json=body, timeout=10)  # plainly: nothing is tried again
            assert answer.status_code == 200, answer.text
            seen.append({hits[0]["id"] for hits in answer.json()["results"]})
            count += 1
        return count

    with listening(service, token="secret") as url, ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(ask, i) for i in range(8)]
        for i in range(20):
            reload(url, 200, wait=True, index=f"index{i}")
            num_seen = len(seen)
            while len(seen) < num_seen + 20:
                assert not any(one.done() for one in clients)
        stop.set()
        assert sum(one.result(10) for one in clients) >= 400
    assert all(len(ids) == 1 for ids in seen)  # every request from one index
    assert len({name for ids in seen for name in ids}) >= 20


def test_a_real_index_that_grew(index_dir: Path, world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    passages = [*read_jsonl(world / "corpus.jsonl", Passage), Passage("new", "Zoe Zander", "Zoe Zander lives in Nice.")]
    write_jsonl(prepared / "corpus.jsonl", passages)
    larger = tmp_path / "larger"
    build(IndexConfig(), prepared=prepared, retriever=retriever_dir, out=larger, device="cpu")
    half = tmp_path / "half"
    shutil.copytree(larger, half)
    (half / "index.json").unlink()

    def open_index(path: Path) -> tuple[Retriever, dict[str, object]]:
        retriever = InProcessRetriever.open(path, "cpu")
        return retriever, {"num_passages": retriever.index.info.num_passages}

    service = Service(ServerConfig(), open_index)
    service.load(index_dir)
    with listening(service, token="secret") as url:
        assert "not a finished index" in str(reload(url, 422, wait=True, index=str(half))["error"])
        reload(url, 422, wait=True, index="nul\0")
        assert reload(url, 200, wait=True, index=str(larger))["status"] == "done"
        query = "Zoe Zander lives in Nice."
        found = HttpRetriever(url, token="secret").search([query], 129)
    assert "new" in {hit.passage.id for hit in found[0]}
    assert found == InProcessRetriever.open(larger, "cpu").search([query], 129)
