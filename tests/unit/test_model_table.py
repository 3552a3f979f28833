"""Models × datasets from our own results files and from mteb's, in one table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from evaluation.model_table import main
from evaluation.mteb_bridge import TaskScores
from evaluation.mteb_tasks import Results, Run

MAP = {"T2Reranking": 0.6733, "MMarcoReranking": 0.3157}


def ours(path: Path) -> Path:
    tasks = tuple(
        TaskScores(name, "default", "test", "x", "map@1000", {"map@1000": score, "ndcg@10": score / 2})
        for name, score in MAP.items()
    )
    results = Results(Run("models/reranker/KEY", "f", "reranker", "2.1"), tasks)
    path.write_text(json.dumps(asdict(results)))
    return path


def mteb_folder(path: Path, tasks: dict[str, list[float]]) -> Path:
    path.mkdir()
    (path / "model_meta.json").write_text(json.dumps({"name": "BAAI/bge-reranker-base"}))
    for name, scores in tasks.items():
        rows = [{"main_score": score, "map_at_10": score / 3, "hf_subset": str(i)} for i, score in enumerate(scores)]
        (path / f"{name}.json").write_text(json.dumps({"task_name": name, "scores": {"dev": rows}}))
    return path


def test_one_table_of_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mteb = mteb_folder(tmp_path / "base", {"T2Reranking": [0.6728], "MMarcoReranking": [0.30, 0.41]})
    main([f"ours (0.4 GB)={ours(tmp_path / 'ours.json')}", str(mteb), "--out", str(tmp_path / "table.md")])
    printed = capsys.readouterr().out
    assert printed.splitlines()[2:] == [
        "| model | T2Reranking | MMarcoReranking | mean |",
        "| :-- | --: | --: | --: |",
        r"| ours (0.4 GB) | 67.3\* | 31.6 | 49.5 |",
        r"| BAAI/bge-reranker-base | 67.3 | 35.5\* | 51.4\* |",
        "",
        r"\*: best of the column.",
    ]
    assert (tmp_path / "table.md").read_text() == printed


def test_another_metric_and_a_dataset_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mteb = mteb_folder(tmp_path / "base", {"T2Reranking": [0.6]})
    main([str(ours(tmp_path / "ours.json")), str(mteb)])
    assert "| BAAI/bge-reranker-base | 60.0 | – | – |" in capsys.readouterr().out
    main([str(mteb), "--metric", "map@10"])
    assert "| BAAI/bge-reranker-base | 20.0 | 20.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.json"], "none.json: no such file; evaluate the model first"),
        (["other.json"], "other.json: no results of evaluation.mteb_tasks"),
        (["empty"], "empty: no task's results in this folder"),
        (["ours.json", "ours.json"], "a second model called models/reranker/KEY"),
        (["ours.json", "--metric", "mrr@10"], "T2Reranking has no mrr@10; it has map@1000, ndcg@10"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    ours(tmp_path / "ours.json")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        main(arguments)
