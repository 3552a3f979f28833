"""An evaluation that is killed goes on where it was and ends with the same numbers, with a real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.answers import evaluate
from jointrag.config import EvaluationConfig
from jointrag.jsonl import write_jsonl
from jointrag.retrieval_client import RetrieverUnavailable
from jointrag.types import Question
from tests.serving import listening, service_over, wait_until
from tests.tiny import AGENTS, PASSAGES, QUESTIONS, TINY, FixedRetriever, teach_to_read, tiny_lm

ROOT = Path(__file__).parents[2]
MANY = [
    Question(f"{q.id}-{i}", q.text, q.answers, "even" if i % 2 else "odd", q.gold_passages)
    for i in range(8)
    for q in QUESTIONS
]
CHILD = """
import sys, time
from pathlib import Path
from evaluation import answering
from tests.integration.test_evaluation_resumes import run

def slowly(*arguments):
    global append
    append(*arguments)
    time.sleep(0.3)

append = answering.Journal.append
answering.Journal.append = slowly
run(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints and prepared questions."""
    folder = tmp_path_factory.mktemp("world")
    for seed, name in enumerate(("warm_start", "mappo")):
        lm = tiny_lm(seed)
        if name == "mappo":
            teach_to_read(lm)
        lm.model.save_pretrained(folder / name / "model")
        lm.tokenizer.save_pretrained(folder / name / "model")
    write_jsonl(folder / "prepared/questions/test.jsonl", MANY)
    write_jsonl(folder / "prepared/corpus.jsonl", PASSAGES)
    return folder


def run(world: Path, url: str, out: Path) -> dict[str, float]:
    out.mkdir(exist_ok=True)
    return evaluate(
        EvaluationConfig(num_bootstrap=200, batch_size=8, subsets=(("selector", "generator"),)),
        AGENTS,
        TINY,
        prepared=world / "prepared",
        systems={name: world / name for name in ("warm_start", "mappo")},
        retrieval_url=url,
        seed=0,
        out=out,
        device="cpu",
    )


def results(out: Path) -> tuple[Any, dict[str, str]]:
    """Scores without seconds, and the predictions as they are."""
    scores = json.loads((out / "scores.json").read_text())
    for system in scores["systems"].values():
        for cost in (system, *system["cost"].values()):
            del cost["seconds"]
    return scores, {path.name: path.read_text() for path in sorted((out / "predictions").iterdir())}


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_killed_in_the_middle_it_ends_with_the_same_numbers(world: Path, tmp_path: Path) -> None:
    with listening(service_over(FixedRetriever())) as url:
        run(world, url, tmp_path / "whole")
        out = tmp_path / "killed"
        environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, str(world), url, str(out)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        try:
            second = out / "answers" / "warm_start.jsonl"
            wait_until(lambda: lines_of(second) > 8 or process.poll() is not None, timeout_s=120)
            assert process.poll() is None, "it should still be answering"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (out / "scores.json").exists()
        first = out / "answers" / "plain_rag.jsonl"
        before = first.read_bytes()
        assert lines_of(first) == 1 + len(MANY)
        with second.open("ab") as file:  # as if it had been killed in the middle of writing
            file.write(b'{"episode": {"question"')
        run(world, url, out)
        assert results(out) == results(tmp_path / "whole")
        assert before.startswith(b'{"belongs_to"')
        assert not (out / "answers").exists()


def test_without_the_retrieval_server_nothing_answered_is_lost(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jointrag import retrieval
    from jointrag.retrieval_client import HttpRetriever

    made = []

    def impatient(url: str) -> HttpRetriever:
        made.append(url)
        if len(made) > 2:  # it is gone when the second system asks
            url = "http://127.0.0.1:9"
        return HttpRetriever(url, timeout_s=0.2)

    out = tmp_path / "out"
    with listening(service_over(FixedRetriever())) as url:
        with monkeypatch.context() as patch:
            patch.setattr(retrieval, "HttpRetriever", impatient)
            with pytest.raises(RetrieverUnavailable, match=r"127\.0\.0\.1:9"):
                run(world, url, out)
        kept = out / "answers" / "no_retrieval.jsonl"
        assert lines_of(kept) == 1 + len(MANY)
        run(world, url, out)
        run(world, url, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole")


def test_what_belongs_to_other_settings_is_answered_again(world: Path, tmp_path: Path) -> None:
    from evaluation.journal import Journal

    path = tmp_path / "journal.jsonl"
    with Journal(path, Question, belongs_to="a", group=2, total=5) as journal:
        journal.append(MANY[:2])
        journal.append(MANY[2:3])
    with Journal(path, Question, belongs_to="a", group=2, total=5) as journal:
        assert journal.items == MANY[:2], "half a group is made again"
        journal.append(MANY[2:4])
    with path.open("ab") as file:
        file.write(json.dumps({"id": 3}).encode() + b"\n")
    with Journal(path, Question, belongs_to="a", group=2, total=5) as journal:
        assert journal.items == MANY[:4]
        journal.append(MANY[4:5])
    with Journal(path, Question, belongs_to="a", group=2, total=5) as journal:
        assert journal.items == MANY[:5], "the last group is smaller"
    with Journal(path, Question, belongs_to="b", group=2, total=5) as journal:
        assert journal.items == []
