"""mteb's tasks with tiny models of all three kinds: its numbers are ours."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mteb")

import evaluation.mteb_tasks
from evaluation.judged import Judged
from evaluation.mteb_bridge import METRICS, evaluate, load_data, local_tasks, named_tasks
from evaluation.mteb_tasks import main
from evaluation.rankings import load_model, rank, search
from evaluation.retrieval import measure
from tests.three_kinds import save_three_kinds
from tests.word_rankers import WORDS, same_words, write

KINDS = ("embedding", "late_interaction", "reranker")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_three_kinds(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: load_model(folders[kind], kind, device="cpu") for kind in KINDS}  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Queries with a positive and seven negatives, some of them with two."""
    lines = same_words(12, seed=0, num_negatives=7)
    for line, other in zip(lines[::3], lines[1::3], strict=True):
        line["pos"].append(other["pos"][0])
    return write(tmp_path_factory.mktemp("data") / "dev.jsonl", lines)


def close(rows: dict[str, float], expected: dict[str, float]) -> None:
    assert rows == pytest.approx(expected, abs=1e-5)  # mteb rounds to five places
    assert 0 < expected["ndcg@10"] < 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_local_reranking_task_gives_our_numbers(kind: str, models: dict[str, Any], data: Path) -> None:
    judged = Judged.read(data)
    task = local_tasks(judged, "dev")[0]
    [found] = evaluate(models[kind], task, batch_size=8)
    rankings = rank(models[kind], judged.queries, judged.corpus, judged.candidates)
    close(found.scores, measure(rankings, judged.gold, METRICS).means())
    assert (found.task, found.main, found.split) == ("dev-reranking", "map@1000", "test")


def test_a_local_retrieval_task_gives_our_numbers(models: dict[str, Any], data: Path) -> None:
    judged = Judged.read(data)
    everything = [list(range(len(judged.corpus)))] * len(judged.queries)
    rankings = {
        "embedding": search(models["embedding"], judged.queries, judged.corpus, k=1000),
        "late_interaction": rank(models["late_interaction"], judged.queries, judged.corpus, everything),
    }
    for kind, row in rankings.items():
        [found] = evaluate(models[kind], local_tasks(judged, "dev")[1])
        close(found.scores, measure(row, judged.gold, METRICS).means())
        assert (found.task, found.main) == ("dev-retrieval", "ndcg@10")


def test_a_reranker_takes_its_candidates_from_a_first_stage(models: dict[str, Any], data: Path) -> None:
    judged = Judged.read(data)
    task = local_tasks(judged, "dev")[1]
    with pytest.raises(ValueError, match="a reranker needs candidates"):
        evaluate(models["reranker"], task)
    [found] = evaluate(models["reranker"], task, first_stage=models["embedding"], num_candidates=20)
    candidates = search(models["embedding"], judged.queries, judged.corpus, k=20)
    rankings = rank(models["reranker"], judged.queries, judged.corpus, candidates)
    close(found.scores, measure(rankings, judged.gold, METRICS).means())


def test_grades_count_as_gains(models: dict[str, Any], tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = [
        {"query": " ".join(rng.sample(WORDS, 2)), "pos": [" ".join(rng.sample(WORDS, 3)) for _ in range(8)]}
        | {"pos_scores": [3, 0, 1, 2, 0, 0, 1, 0]}
        for _ in range(10)
    ]
    judged = Judged.read(write(tmp_path / "graded.jsonl", lines))
    [found] = evaluate(models["embedding"], local_tasks(judged, "graded")[0])
    rankings = rank(models["embedding"], judged.queries, judged.corpus, judged.candidates)
    close(found.scores, measure(rankings, judged.gold, METRICS).means())


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_by_its_name(kind: str, models: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T2Reranking as it is published, with other texts."""
    lines = same_words(9, seed=3)
    judged = Judged.read(write(tmp_path / "lines.jsonl", lines))
    parts: dict[str, list[dict[str, Any]]] = {
        "corpus": [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(judged.corpus)],
        "queries": [{"_id": f"q{i}", "text": text} for i, text in enumerate(judged.queries)],
        "default": [
            {"query-id": f"q{i}", "corpus-id": f"d{j}", "score": int(gain)}
            for i, row in enumerate(judged.gold)
            for j, gain in row.items()
        ],
        "top_ranked": [
            {"query-id": f"q{i}", "corpus-ids": [f"d{j}" for j in row]} for i, row in enumerate(judged.candidates)
        ],
    }
    folder = tmp_path / "published"
    folder.mkdir()
    configs = ["---", "configs:"]
    for name, rows in parts.items():
        write(folder / f"{name}.jsonl", rows)
        configs += [f"- config_name: {name}", "  data_files:", "  - split: dev", f"    path: {name}.jsonl"]
    (folder / "README.md").write_text("\n".join([*configs, "---", ""]))

    [task] = named_tasks(["T2Reranking"])
    monkeypatch.setitem(task.metadata.dataset, "path", str(folder))
    monkeypatch.setitem(task.metadata.dataset, "revision", "main")
    load_data(task)
    [found] = evaluate(models[kind], task)
    rankings = rank(models[kind], judged.queries, judged.corpus, judged.candidates)
    close(found.scores, measure(rankings, judged.gold, METRICS).means())
    assert (found.task, found.split, found.main) == ("T2Reranking", "dev", "map@1000")


def test_command_line(
    folders: dict[str, Path],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out" / "scores.json"
    command = ["--model", str(folders["embedding"]), "--kind", "embedding", "--device", "cpu", "--out", str(out)]
    main([*command, "--data", str(data)])
    shown = capsys.readouterr().out
    assert shown == out.with_suffix(".md").read_text()
    assert "| dev-reranking |" in shown and "| dev-retrieval |" in shown
    first = json.loads(out.read_text())
    assert [row["task"] for row in first["tasks"]] == ["dev-reranking", "dev-retrieval"]
    assert first["run"]["kind"] == "embedding"

    loaded = []

    def load(*args: Any) -> Any:
        loaded.append(args)
        return load_model(*args)

    monkeypatch.setattr(evaluation.mteb_tasks, "load_model", load)
    main([*command, "--data", str(data)])
    assert json.loads(out.read_text()) == first and not loaded, "what is done is not done again"

    first["tasks"].pop()
    out.write_text(json.dumps(first))
    main([*command, "--data", str(data)])
    assert [row["task"] for row in json.loads(out.read_text())["tasks"]] == ["dev-reranking", "dev-retrieval"]
    assert len(loaded) == 1, "what is missing is done"

    other = write(tmp_path / "dev.jsonl", same_words(5, seed=9))  # the same name, other lines
    main([*command, "--data", str(other)])
    assert len(json.loads(out.read_text())["tasks"]) == 4


def test_a_model_that_was_trained_again_is_evaluated_again(
    models: dict[str, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "model", tmp_path / "scores.json"
    command = ["--model", str(folder), "--kind", "reranker", "--out", str(out), "--device", "cpu"]
    command += ["--first-stage", str(tmp_path / "first"), "--num-candidates", "5"]
    models["embedding"].model.save_pretrained(str(tmp_path / "first"))
    model = models["reranker"]
    model.save_pretrained(str(folder))
    main([*command, "--data", str(data)])
    before = json.loads(out.read_text())
    weight = model.model.classifier.weight
    weight.data.neg_()
    model.save_pretrained(str(folder))
    weight.data.neg_()
    main([*command, "--data", str(data)])
    after = json.loads(out.read_text())
    assert len(after["tasks"]) == 2
    assert after["tasks"][0]["scores"] != before["tasks"][0]["scores"]
    assert "Of the 5 best of" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tasks", "SciFact"], "task SciFact: its data set mteb/scifact is not in .* cannot be downloaded"),
        (["--tasks", "T2Rerankin"], "mteb has no task of that name: 'T2Rerankin'.*'T2Reranking'"),
        (["--tasks", "STS12"], "task STS12: STS of text; name a task that retrieves or reranks texts"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: no such file"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], message: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    out = tmp_path / "scores.json"
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        main(["--model", str(folders["embedding"]), "--kind", "embedding", "--out", str(out), *arguments])
    assert not out.exists()


def test_a_file_that_holds_something_else_is_not_overwritten(folders: dict[str, Path], data: Path) -> None:
    with pytest.raises(SystemExit, match="is there and holds no MTEB results; choose another name"):
        main(["--model", str(folders["embedding"]), "--kind", "embedding", "--out", str(data), "--data", str(data)])


def test_without_mteb(folders: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    command = ["--model", str(folders["embedding"]), "--kind", "embedding", "--out", str(tmp_path / "scores.json")]
    with pytest.raises(SystemExit, match=r"error: MTEB tasks need mteb .*pip install 'jointrag\[mteb\]'"):
        main([*command, "--data", str(data)])


def test_scores_that_mteb_cannot_take() -> None:
    judged = Judged(("q",), ("a",), ({0: 0.5},), ((0,),))
    with pytest.raises(ValueError, match="whole numbers as gains"):
        local_tasks(judged, "mine")
