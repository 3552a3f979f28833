"""The retrieval models as a tracked run: every stage of the flow, and the tutorial of docs/retrieval-training.md."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import requests
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer

from jointrag.jsonl import write_jsonl
from tests.e2e.test_smoke import ROOT, processes_in
from tests.serving import wait_until
from tests.three_kinds import save_three_kinds
from tests.tiny import tiny_lm
from tests.word_rankers import WORDS, same_words, tiny_bert

ALL = ("prepare", "start_retriever", "preferences", "retriever", "index", "negatives", "late_interaction", "reranker")


def start(workspace: Path, module: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"PREFECT_HOME": str(workspace / "prefect"), "MLFLOW_TRACKING_URI": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def printed(workspace: Path, module: str, *arguments: object) -> str:
    process = start(workspace, module, *arguments)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    return told


def settings(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name.replace('__', '.')}={value}")]


def test_all_kinds_learn_from_the_prepared_questions_and_the_reader(tmp_path: Path) -> None:
    reader = tiny_lm()
    reader.model.save_pretrained(tmp_path / "reader")
    reader.tokenizer.save_pretrained(tmp_path / "reader")
    given = settings(
        workspace=tmp_path,
        dataset__num_source_questions=120,
        retriever__supervision="preference",
        retriever__loss="scores",
        preferences__num_candidates=4,
        preferences__reader=json.dumps(
            {"type": "pretrained", "name": str(tmp_path / "reader"), "dtype": "float32", "max_length": 512}
        ),
        late_interaction__model=tiny_bert(tmp_path / "bert"),
        late_interaction__num_negatives=1,
        reranker__model=tmp_path / "bert",
        reranker__num_negatives=2,
    )
    told = printed(tmp_path, "flows.train_retrieval", "--preset", "smoke", *given)
    for number, stage in enumerate(ALL, 1):
        assert re.search(rf"^\[{number}/{len(ALL)}\] {stage} +[\d.]+ s, in {tmp_path}/", told, re.MULTILINE), told
    assert "Error" not in told

    texts = ["Ada lives in Rome .", "Carl"]
    SentenceTransformer(str(one(tmp_path, "models/retriever/*/model"))).encode(texts)
    MultiVectorEncoder(str(one(tmp_path, "models/late_interaction/*/model"))).encode(texts)
    assert len(CrossEncoder(str(one(tmp_path, "models/reranker/*/model"))).predict([texts, texts])) == 2

    again = printed(tmp_path, "flows.train_retrieval", "--preset", "smoke", *given)
    assert again.count("finished earlier") == len(ALL)
    other = printed(
        tmp_path, "flows.train_retrieval", "--preset", "smoke", *given, *settings(reranker__loss="pairwise")
    )
    assert other.count("finished earlier") == len(ALL) - 1
    assert processes_in(tmp_path) == []


def test_tutorial(tmp_path: Path) -> None:
    """One's own passages and questions; three commands; a better retriever answers over HTTP."""
    lines = same_words(80, seed=0, num_negatives=0)
    passages = [{"id": str(i), "title": "", "text": line["pos"][0]} for i, line in enumerate(lines)]
    passages += [{"id": f"other {word}", "title": "", "text": f"{word} {word} {word}"} for word in WORDS]
    write_jsonl(tmp_path / "corpus.jsonl", passages)
    write_jsonl(tmp_path / "train.jsonl", [{"query": line["query"], "pos": line["pos"]} for line in lines])
    model = save_three_kinds(tmp_path / "start")["embedding"]

    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "corpus", "mined")}
    printed(
        tmp_path,
        "trainers.negatives",
        *("--data", files["train"], "--corpus", files["corpus"], "--out", files["mined"]),
    )
    mined = [json.loads(line) for line in files["mined"].read_text().splitlines()]
    assert len(mined) == 80 and all(line["neg"] for line in mined)

    given = settings(
        workspace=tmp_path,
        dataset__path=files["corpus"],
        retriever__data=files["mined"],
        retriever__encoder__name=model,
        retriever__encoder__max_length=16,
        retriever__batch_size=16,
        retriever__learning_rate=1e-3,
        retriever__num_epochs=4,
    )
    told = printed(tmp_path, "flows.train_retrieval", "--preset", "retriever", *given)
    assert re.search(r"recall@10\D+\d", told), told

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(tmp_path, "retrieval_server", "--index", one(tmp_path, "data/index/*"), "--port", port)
    try:
        wait_until(lambda: answers(port) or server.poll() is not None, timeout_s=60)
        query = {"queries": [lines[0]["query"]], "k": 5}
        found = requests.post(f"http://127.0.0.1:{port}/v1/search", json=query, timeout=10).json()
        assert len(found["results"][0]) == 5
    finally:
        server.terminate()
        assert server.wait(timeout=30) == 0
        assert server.stderr is not None
        server.stderr.close()


def one(workspace: Path, pattern: str) -> Path:
    (found,) = (path for path in workspace.glob(pattern) if not path.name.startswith("."))  # locks
    return found


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.ConnectionError:
        return False
