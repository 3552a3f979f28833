"""A reranker between retriever and agents: hosted by the retrieval server, and a stage of the pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import requests

from jointrag import Reranker
from jointrag.config import ServerConfig
from jointrag.retrieval import HttpRetriever, InProcessRetriever, RerankingRetriever
from retrieval_server.process import Reranking, serving
from tests.e2e.test_smoke import pipeline, processes_in
from tests.three_kinds import save_three_kinds
from tests.word_rankers import tiny_bert

QUERIES = ["Where does Ada Adler live?", "In which city was Hugo Haas born?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_three_kinds(tmp_path_factory.mktemp("models"))["reranker"])


def test_the_best_of_what_was_retrieved_in_the_rerankers_order(index_dir: Path, model: str) -> None:
    retriever, reranker = InProcessRetriever.open(index_dir, "cpu"), Reranker(model, device="cpu")
    hits = RerankingRetriever(retriever, reranker, num_retrieved=20).search(QUERIES, 5)
    for query, found, best in zip(QUERIES, retriever.search(QUERIES, 20), hits, strict=True):
        scores = dict(
            zip(
                (hit.passage.id for hit in found),
                reranker.score([(query, hit.passage.contents) for hit in found]),
                strict=True,
            )
        )
        expected = sorted(scores, key=lambda name: -scores[name])[:5]
        assert [hit.passage.id for hit in best] == expected
        assert [hit.score for hit in best] == pytest.approx([scores[name] for name in expected], abs=1e-5)
    assert len(RerankingRetriever(retriever, reranker, num_retrieved=3).search(QUERIES, 5)[0]) == 5


def test_the_server_hosts_it(index_dir: Path, model: str, tmp_path: Path) -> None:
    expected = RerankingRetriever(InProcessRetriever.open(index_dir, "cpu"), Reranker(model, device="cpu"), 20)
    with serving(
        ServerConfig(),
        index=index_dir,
        log_path=tmp_path / "log",
        device="cpu",
        torch_threads=1,
        reranking=Reranking(model, num_retrieved=20),
    ) as server:
        found = HttpRetriever(server.url).search(QUERIES, 5)
        assert [[hit.passage.id for hit in hits] for hits in found] == [
            [hit.passage.id for hit in hits] for hits in expected.search(QUERIES, 5)
        ]
        info = requests.get(f"{server.url}/info", timeout=10).json()
        assert (info["reranker"], info["num_retrieved"]) == (model, 20)


@pytest.mark.slow
def test_a_pipeline_trains_its_reranker_and_asks_it(tmp_path: Path) -> None:
    settings = {
        "reranker.model": tiny_bert(tmp_path / "bert"),
        "reranker.num_negatives": 2,
        "reranking.num_retrieved": 12,
        "mappo.num_steps": 1,
        "control.enabled": False,
    }
    given = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    first = pipeline(tmp_path, *given)
    assert first.returncode == 0, first.stderr
    (log,) = tmp_path.glob("runs/flows/*/retrieval_server.log")
    (trained,) = (path for path in tmp_path.glob("models/reranker/*") if not path.name.startswith("."))
    (data,) = (path for path in tmp_path.glob("data/agent_data/*") if not path.name.startswith("."))
    assert json.loads((data / "manifest.json").read_text())["inputs"]["reranker"]["path"] == str(trained)
    assert "error" not in log.read_text().lower()

    fewer = pipeline(tmp_path, *given, "--set", "reranking.num_retrieved=8")  # nothing is trained for that but agents
    assert fewer.returncode == 0, fewer.stderr
    done = [line for line in fewer.stderr.splitlines() if "finished earlier" in line]
    assert [line.split()[1] for line in done] == ["prepare", "retriever", "index", "negatives", "reranker"]
    assert processes_in(tmp_path) == []
