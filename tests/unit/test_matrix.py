"""Systems on several datasets, and where a checkpoint's data came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.matrix import build, data_sets_of, table
from evaluation.measures import measure
from evaluation.scores import Matrix, Scores, SystemScores
from evaluation.tables import markdown
from flows.command_line import _datasets, _parser
from flows.evaluate_rag import _of_dataset
from jointrag.jsonl import write_jsonl
from jointrag.presets import ConfigError
from jointrag.types import Episode, Question


def evaluation(folder: Path, answers: dict[str, list[str]]) -> Path:
    systems = {}
    for name, texts in answers.items():
        episodes = [Episode(Question(f"q{i}", "?", ("Paris",)), answer=text) for i, text in enumerate(texts)]
        write_jsonl(folder / "predictions" / f"{name}.jsonl", episodes)
        systems[name] = SystemScores(model=name, overall=measure(episodes), types={}, seconds=1.0)
    scores = Scores(num_questions=len(texts), types={}, systems=systems, comparisons=())
    (folder / "scores.json").write_text(scores.model_dump_json())
    return folder


def test_matrix(tmp_path: Path) -> None:
    home = evaluation(tmp_path / "home", {"warm_start": ["Paris", "Lyon"] * 20, "mappo": ["Paris"] * 40})
    away = evaluation(tmp_path / "away", {"mappo": ["Lyon"] * 10})
    domain = {"mappo": {"home": True, "away": False}}
    found = build({"home": home, "away": away}, domain, num_resamples=300, seed=0)
    assert found.datasets == {"home": 40, "away": 10}
    cell = found.cells["warm_start"]["home"]
    assert (cell.f1, cell.em, cell.in_domain) == (0.5, 0.5, None)
    assert 0.3 < cell.low < 0.5 < cell.high < 0.7
    assert [found.cells["mappo"][name].in_domain for name in ("home", "away")] == [True, False]
    assert "away" not in found.cells["warm_start"]
    lines = markdown(table(found)).splitlines()
    assert lines[2] == "| system | home (40) | away (10) |"
    assert lines[4].endswith("| – |")
    assert lines[5].startswith("| MAPPO | 100.0\\* (100.0 to 100.0) | 0.0 (0.0 to 0.0) |")
    (tmp_path / "matrix.json").write_text(found.model_dump_json())
    assert Matrix.read(tmp_path / "matrix.json") == found
    with pytest.raises(ValueError, match=r"nothing\.json: no such file"):
        Matrix.read(tmp_path / "nothing.json")


def test_the_data_that_a_checkpoint_was_trained_on(tmp_path: Path) -> None:
    def stage(name: str, *inputs: str) -> Path:
        (tmp_path / name).mkdir()
        known = {i: {"path": str(tmp_path / i), "fingerprint": f"print of {i}"} for i in inputs}
        manifest: dict[str, Any] = {"stage": name.split("-")[0], "inputs": known}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        return tmp_path / name

    stage("prepare-a")
    stage("index", "prepare-a")
    stage("agent_data", "prepare-a", "index")
    assert data_sets_of(stage("mappo", "agent_data", "deleted")) == {"print of prepare-a"}
    assert data_sets_of(stage("control", "deleted")) == frozenset()


def test_datasets_on_the_command_line() -> None:
    parser = _parser("flows.evaluate_rag:evaluate_rag", "")
    given = ["home", "away:seed=1", "away:dataset.num_people=5", "other:preset=demo"]
    datasets = _datasets(parser, given)
    assert datasets == {"home": {}, "away": {"seed": 1, "dataset.num_people": 5}, "other": {"preset": "demo"}}
    settings = {"evaluation": {"num_bootstrap": 7}, "agents": {"num_candidates": 3}}
    home, away, other = (_of_dataset(name, "smoke", settings, own) for name, own in datasets.items())
    assert (home.seed, away.seed, away.dataset.num_people, home.dataset.num_people) == (0, 1, 5, 10)  # type: ignore[union-attr]
    assert other.retriever.encoder.hidden_size == 256 != home.retriever.encoder.hidden_size  # type: ignore[union-attr]
    for config in (home, away, other):  # the agents and what is measured are the run's
        assert (config.evaluation.num_bootstrap, config.agents.num_candidates) == (7, 3)
    with pytest.raises(ConfigError, match=r"dataset name '\.\./up'"):
        _of_dataset("../up", "smoke", {}, {})
    with pytest.raises(ConfigError, match=r"unknown setting dataset\.num_peopl"):
        _of_dataset("away", "smoke", {}, {"dataset.num_peopl": 3})
    with pytest.raises(SystemExit):
        _datasets(parser, ["away:seed"])
