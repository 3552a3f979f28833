"""`jointrag ask` and `jointrag serve` over a run with tiny models: what is printed, and every way to be wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from jointrag import systems
from jointrag.__main__ import main
from jointrag.config import PipelineConfig
from jointrag.retrieval import InProcessRetriever
from jointrag.runs import CONFIG, RUNS, StageRecord
from tests import tiny
from tests.answering import Asked, Said, answering
from tests.serving import ended, listening, service_over

ROOT = Path(__file__).parents[2]
QUESTION = "Where does Ada Adler live?"


@pytest.fixture(scope="module")
def made(world: Path, index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run; do not change it."""
    workspace = tmp_path_factory.mktemp("workspace")
    lm = tiny.tiny_lm()
    for stage in ("warm_start", "mappo"):
        lm.model.save_pretrained(workspace / "models" / stage / "k" / "model")
        lm.tokenizer.save_pretrained(workspace / "models" / stage / "k" / "model")
    (workspace / "data").mkdir()
    for stage, where in (("prepare", world), ("index", index_dir)):
        (workspace / "data" / stage).symlink_to(where)
    folder = workspace / RUNS / "demo-red-fox"
    config = PipelineConfig(language_model=tiny.TINY, agents=tiny.AGENTS)
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(yaml.safe_dump(config.model_dump(mode="json")))
    record = StageRecord(folder, workspace)
    for stage in ("prepare", "index"):
        record.add(stage, workspace / "data" / stage)
    for stage in ("warm_start", "mappo"):
        record.add(stage, workspace / "models" / stage / "k")
    record.finish()
    return workspace


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(made, tmp_path / "copy", symlinks=True))


def ask(*arguments: str | Path) -> int:
    return main(["ask", *map(str, arguments), "--device", "cpu"])


def test_one_question_to_the_newest_run(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(QUESTION, "--workspace", made) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"question    {QUESTION}\nanswered by mappo (rewriter, selector, generator)\nrewriter ")
    assert out.count("\n            ✓ [") + out.count("passages    ✓ [") + out.count("  [") >= 3
    assert "\nanswer " in out and err == ""


def test_both_checkpoints_as_json(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = ["--checkpoint", "warm_start", "--checkpoint", f"mine={made / 'models/mappo/k'}"]
    assert ask(QUESTION, "--workspace", made, "--run", "fox", *checkpoints, "--json") == 0
    before, mine = map(json.loads, capsys.readouterr().out.splitlines())
    assert (before["checkpoint"], mine["checkpoint"]) == ("warm_start", "mine")
    assert before["done"] and len(before["passages"]) == 3
    assert before["answer"] == mine["answer"]  # the same weights


def test_questions_on_standard_input_one_a_line(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\n\n  Who is Bela?  \n{'word ' * 400}\nand now?"))
    assert ask("--workspace", made, "--json") == 1  # one of them is too long
    out, err = capsys.readouterr()
    assert [json.loads(line)["question"] for line in out.splitlines()] == [QUESTION, "Who is Bela?", "and now?"]
    assert err.count("\n") == 1 and err.startswith("error: mappo: a rewriter prompt of ")


def test_a_retrieval_server_finds_the_same(
    made: Path, index_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(QUESTION, "--workspace", made, "--json") == 0
    with listening(service_over(InProcessRetriever.open(index_dir, "cpu"))) as url:
        assert ask(QUESTION, "--workspace", made, "--json", "--retrieval-url", url) == 0
    here, there = map(json.loads, capsys.readouterr().out.splitlines())
    assert here["passages"] == there["passages"]
    monkeypatch.setattr(systems, "_MOST_SILENT_S", 0.5)
    assert ask(QUESTION, "--workspace", made, "--retrieval-url", url) == 2
    assert f"error: --retrieval-url {url}: the retrieval server" in capsys.readouterr().err


def test_a_model_behind_a_server_answers_over_the_same_index(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(asked: Asked) -> Said:
        content = "Document1" if "choose evidence" in str(asked.body["messages"]) else "Port Nevin"
        return Said({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})

    with answering(answer) as url:
        assert ask(QUESTION, "--workspace", made, "--json", "--checkpoint", f"big={url}/v1#llama") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["answer"] == "Port Nevin" and [p["selected"] for p in said["passages"]] == [False, True, False]


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["--run", "cat"], "no run 'cat' in"),
        (["--checkpoint", "control"], "no checkpoint 'control'; it has mappo, warm_start, and control=FOLDER"),
        (["--checkpoint", "index"], "no checkpoint 'index'"),
        (["--checkpoint", "a b"], "NAME or NAME=WHERE is expected"),
        (["--checkpoint", "x="], "NAME or NAME=WHERE is expected"),
        (["--checkpoint", "x=nowhere"], "there is no model (config.json) in"),
        (["--checkpoint", "x=http://host/v1"], "does not name the model: x=http://host/v1#MODEL"),
        (["--checkpoint", "mappo", "--checkpoint", "mappo"], "every name once"),
        (["--device", "cuda:77"], "torch sees 0 GPUs here"),
        (["--device", "toaster"], "auto, cpu, cuda or cuda:1 is expected"),
        (["--retrieval-url", "ftp://x"], "is no address of a retrieval server"),
    ],
)
def test_mistakes_are_one_sentence(
    made: Path, arguments: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(["ask", QUESTION, "--workspace", str(made), *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and why in err and out == ""


@pytest.mark.parametrize(
    "arguments", [["  "], ["q", "--threads", "0"], ["q", "--threads", "x"], ["q", "--workspace"], ["q", "w"]]
)
def test_a_wrong_command_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["ask", *arguments])
    assert left.value.code == 2 and "usage: jointrag" in capsys.readouterr().err


@pytest.mark.parametrize("origin", ["chat.example.org", "https://chat.example.org/", "null"])
def test_an_origin_is_no_address_of_a_page(origin: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["serve", "--allow-origin", origin])
    assert left.value.code == 2 and "is no origin: http://HOST:PORT" in capsys.readouterr().err


def test_what_is_missing_from_the_workspace_is_named(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = workspace / "models/mappo/k/model"
    (model / "tokenizer.json").rename(workspace / "tokenizer.json")
    (model / "tokenizer_config.json").unlink()
    assert ask(QUESTION, "--workspace", workspace) == 2
    assert f"checkpoint mappo: {model} has no tokenizer (tokenizer* is missing); save" in capsys.readouterr().err
    (model / "tokenizer.json").write_text("{")
    assert ask(QUESTION, "--workspace", workspace) == 2
    assert f"checkpoint mappo: {model} cannot be loaded" in capsys.readouterr().err
    shutil.rmtree(model)
    assert ask(QUESTION, "--workspace", workspace) == 2
    assert "model is missing; run the same flow with --force mappo, which makes it again" in capsys.readouterr().err
    shutil.rmtree(model.parent)
    assert ask(QUESTION, "--workspace", workspace) == 2
    assert "which makes the stage mappo again" in capsys.readouterr().err
    (workspace / "data/index").unlink()
    assert ask(QUESTION, "--workspace", workspace, "--checkpoint", "warm_start") == 2
    assert "which makes the stage index again" in capsys.readouterr().err


# ---- serve -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(made: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process and its address."""
    command = [sys.executable, "-m", "jointrag", "serve", "--workspace", str(made), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None and process.stderr is not None
    errors: list[str] = []
    reading = threading.Thread(target=lambda: errors.append(process.stderr.read() if process.stderr else ""))
    reading.start()
    try:
        line = process.stdout.readline()
        assert line.startswith("demo-red-fox (mappo, warm_start) answers on http://127.0.0.1:"), (line, errors)
        yield process, line.split(" answers on ")[1].split(";")[0]
    finally:
        process.kill()
        process.wait()
        reading.join(10)


def test_serve_answers_says_that_its_port_is_taken_and_stops_on_ctrl_c(
    server: tuple[subprocess.Popen[str], str], made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, url = server
    assert "<textarea" in requests.get(url, timeout=10).text
    info = requests.get(f"{url}/info", timeout=10).json()
    assert info["run"] == "demo-red-fox" and len(info["examples"]) == 3
    said = requests.post(f"{url}/ask", json={"question": info["examples"][0]}, timeout=60).json()
    assert said["checkpoint"] == "mappo" and said["done"]

    port = url.rsplit(":", 1)[1]
    assert main(["serve", "--workspace", str(made), "--port", port]) == 2
    assert f"the answer server cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err

    process.send_signal(signal.SIGINT)
    assert ended(process.pid, 60) and process.wait() == 0
    assert process.stdout is not None and process.stdout.read() == "stopped\n"


def test_serve_says_the_same_mistakes(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--workspace", str(tmp_path), "--port", "0"]) == 2
    assert "train one first: python -m flows.full_pipeline" in capsys.readouterr().err
    assert main(["serve", "--workspace", str(made), "--port", "0", "--host", "203.0.113.7"]) == 2
    assert "cannot listen on 203.0.113.7:0" in capsys.readouterr().err
    for wrong in (["--port", "99999"], ["--port", "x"], ["--max-waiting", "0"]):
        with pytest.raises(SystemExit):
            main(["serve", *wrong])
