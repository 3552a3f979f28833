"""The whole pipeline at its smallest, from the command line and without servers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from flows.full_pipeline import CHAIN
from jointrag.runs import find

ROOT = Path(__file__).parents[2]
OPTIONAL = ("start_retriever", "preferences", "negatives", "reranker")  # of settings that the preset leaves alone
STAGES = tuple(name for name in CHAIN if name not in OPTIONAL)


def pipeline(workspace: Path, *arguments: str, flow: str = "full_pipeline") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"PREFECT_HOME": str(workspace / "prefect"), "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-m", f"flows.{flow}", "--preset", "smoke", "--set", f"workspace={workspace}"]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
    )


def test_smoke(tmp_path: Path) -> None:
    first = pipeline(tmp_path)
    assert first.returncode == 0, first.stderr
    for number, stage in enumerate(STAGES, 1):
        assert f"[{number}/{len(STAGES)}] {stage:<10} " in first.stderr
    assert "finished earlier" not in first.stderr
    assert "Joint training" in first.stderr
    assert "Error" not in first.stderr

    (scores,) = tmp_path.glob("runs/evaluate/*/scores.json")
    assert set(json.loads(scores.read_text())["systems"]) == {
        "no_retrieval", "plain_rag", "warm_start", "mappo", "control"
    }  # fmt: skip
    (report,) = tmp_path.glob("runs/report/*/report.html")
    assert f"report  {report}" in first.stderr
    assert list(find(None, tmp_path).stages) == [name for name in STAGES if name != "serve"]
    assert not list(tmp_path.glob("*/*/*.partial"))
    assert processes_in(tmp_path) == []

    again = pipeline(tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("finished earlier") == len(STAGES) - 1
    assert "serve      not needed" in again.stderr

    changed = pipeline(tmp_path, "--set", "report.num_examples=2", "--force", "agent_data")
    assert changed.returncode == 0, changed.stderr
    rerun = [line.split()[1] for line in changed.stderr.splitlines() if line.startswith("[") and " s" in line[15:24]]
    assert rerun == ["serve", "agent_data", "report"]
    checkpoints_get_a_page(tmp_path)


def checkpoints_get_a_page(workspace: Path) -> None:
    run = find(None, workspace)
    named = [
        f"--checkpoint={name}={run.stage(stage)}" for name, stage in (("before", "warm_start"), ("after", "mappo"))
    ]
    one = pipeline(workspace, *named, flow="evaluate_rag")
    assert one.returncode == 0, one.stderr
    page = Path(re.findall(r"^report  (.*)$", one.stderr, re.MULTILINE)[-1]).read_text()
    for text in ("after − before", "Learning curves", "Where points are lost"):
        assert text in page, text
    several = pipeline(workspace, *named, "--dataset=home", "--dataset=away:seed=1", flow="evaluate_rag")
    assert several.returncode == 0, several.stderr
    pages = re.findall(r"^report  (.*)$", several.stderr, re.MULTILINE)
    assert len(set(pages)) == 2 and all(Path(page).is_file() for page in pages)
    (matrix,) = workspace.glob("runs/flows/*/matrix.json")
    assert set(json.loads(matrix.read_text())["datasets"]) == {"home", "away"}


def processes_in(folder: Path) -> list[str]:
    """Command lines and working directories of processes that still have to do with `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words:
            found.append(words)
    return found
