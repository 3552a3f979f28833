"""What MLflow's trace view shows of a question: against a real store, read back through MLflow's own client."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from jointrag import tracking
from jointrag.traces import trace
from jointrag.types import Episode, Passage, Question, Turn

GOLD, OTHER = Passage("p1", "Oslo", "Oslo is in Norway."), Passage("p2", "Rome", "Rome is in Italy.")
QUESTION = Question("q7", "Where is Oslo?", ("Norway",), "one-hop", ("p1",))
EPISODE = Episode(
    QUESTION,
    sub_questions=("Oslo?", "Norway?"),
    candidates=(OTHER, GOLD),
    selected=(1,),
    answer="in Norway",
    turns=(
        Turn("rewriter", "Where is Oslo?", "Oslo?\nNorway?"),
        Turn("selector", "Document0 …", "Document1,Document7", penalty=-1.0),
        Turn("generator", "Oslo …", "in Norway"),
    ),
)
SECONDS = {"rewriter": 0.2, "retriever": 0.05, "selector": 0.1, "generator": 0.3}


def test_the_steps_are_the_chains() -> None:
    found = trace(EPISODE, SECONDS, "mappo")
    assert [step.name for step in found.steps] == ["rewriter", "retriever", "selector", "generator"]
    rewriter, retriever, selector, generator = found.steps
    assert rewriter.outputs == {"response": "Oslo?\nNorway?", "sub-questions": ["Oslo?", "Norway?"]}
    assert retriever.inputs == {"questions": ["Oslo?", "Norway?"]}
    assert [passage["metadata"] for passage in retriever.outputs] == [
        {"document": 0, "gold": False, "read": False},
        {"document": 1, "gold": True, "read": True},
    ]
    assert selector.outputs == {
        "response": "Document1,Document7",
        "read": ["Oslo\nOslo is in Norway."],
        "penalty": -1.0,
    }
    assert generator.outputs == {"response": "in Norway"}
    assert found.outputs["f1"] == pytest.approx(2 / 3)


def test_chains_without_rewriter_or_retrieval() -> None:
    reading = Episode(QUESTION, (QUESTION.text,), (GOLD,), answer="Norway", turns=EPISODE.turns[1:])
    assert [step.name for step in trace(reading, {}, "x").steps] == ["retriever", "selector", "generator"]
    closed_book = Episode(QUESTION, answer="Norway", turns=EPISODE.turns[2:])
    assert [step.name for step in trace(closed_book, {}, "x").steps] == ["generator"]


def test_mlflow_shows_them_below_their_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    pipeline = tracking.open_pipeline(uri, "traces", name="demo", flow_run_id="1", settings={})
    pipeline.log_traces(trace(EPISODE, SECONDS, system) for system in ("warm_start", "mappo"))
    assert "MLFLOW_TRACKING_URI" not in os.environ  # nothing else of this process goes there now

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("traces")
    assert experiment is not None
    found = client.search_traces(locations=[experiment.experiment_id], run_id=pipeline.run.run_id)
    assert sorted(one.info.tags["jointrag.system"] for one in found) == ["mappo", "warm_start"]
    one = next(one for one in found if one.info.tags["jointrag.system"] == "mappo")
    root, *steps = sorted(one.data.spans, key=lambda span: (span.start_time_ns, span.parent_id is not None))
    assert (root.name, root.span_type, root.inputs) == ("mappo", "CHAIN", {"question": "Where is Oslo?"})
    assert root.outputs["answer"] == "in Norway"
    assert [(span.name, span.span_type, span.parent_id) for span in steps] == [
        ("rewriter", "AGENT", root.span_id),
        ("retriever", "RETRIEVER", root.span_id),
        ("selector", "AGENT", root.span_id),
        ("generator", "AGENT", root.span_id),
    ]
    lengths = [((span.end_time_ns or 0) - span.start_time_ns) / 1e9 for span in steps]
    assert lengths == pytest.approx(list(SECONDS.values()))
    assert steps[1].outputs[1]["page_content"] == "Oslo\nOslo is in Norway."
    assert one.info.tags["jointrag.question"] == "q7"
    assert one.info.execution_duration == pytest.approx(650, abs=1)


def test_traces_that_cannot_be_written_cost_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    pipeline = tracking.open_pipeline(uri, "traces", name="demo", flow_run_id="1", settings={})

    class Gone:
        def start_trace(self, *args: Any, **kwargs: Any) -> None:
            raise ConnectionError("refused")

    pipeline._client = Gone()
    with caplog.at_level(logging.WARNING):
        pipeline.log_traces([trace(EPISODE, SECONDS, "mappo")])
    assert "MLflow got no traces (refused)" in caplog.text
