from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.command_line import main
from jointrag import presets

ROOT = Path(__file__).parents[2]
FLOWS = ["full_pipeline", "train_retrieval", "build_index", "train_agents", "evaluate_rag", "ablation"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("flow", FLOWS)
def test_help_lists_presets_without_loading_anything_heavy(flow: str) -> None:
    done = command("-X", "importtime", "-m", f"flows.{flow}", "--help")
    assert done.returncode == 0
    for name, path in presets.presets().items():
        assert name in done.stdout
        assert presets.describe(path) in done.stdout
    assert "--set mappo.num_steps=50" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "pydantic" in imported
    assert not imported & {"torch", "prefect", "mlflow", "transformers", "sentence_transformers", "numpy"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--preset", "dmeo"], "error: unknown preset 'dmeo'; did you mean demo?; known presets: demo, hotpotqa"),
        (["--set", "mappo.num_stepz=3"], "error: unknown setting mappo.num_stepz; did you mean mappo.num_steps?"),
        (["--set", "mappo.num_steps=x"], "error: mappo.num_steps: expected a valid integer"),
        (["--set", "dataset.name=nq", "--set", "dataset.corpus=no.tsv"], "error: dataset.corpus=no.tsv: no such file"),
        (["--force", "mapo"], "argument --force: invalid choice: 'mapo'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_mistakes_cost_a_second_and_have_no_traceback(arguments: list[str], message: str) -> None:
    start = time.monotonic()
    done = command("-m", "flows.full_pipeline", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 10  # a second on a free machine


def test_list_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("flows.full_pipeline:full_pipeline", "", ["--set", "mappo.num_steps=7", "--list-settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("mappo.num_steps ")]
    assert line.split()[1] == "7"
    assert "Iterations of rollout and update." in line


def test_evaluate_needs_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--checkpoint", "x"]):
        with pytest.raises(SystemExit) as caught:
            main("flows.evaluate_rag:evaluate_rag", "", ["--preset", "smoke", *arguments])
        assert caught.value.code == 2
    assert "not of the form NAME=WHERE" in capsys.readouterr().err


def test_ablation_needs_a_table_it_knows(capsys: pytest.CaptureFixture[str]) -> None:
    flow = "flows.ablation:ablation"
    with pytest.raises(SystemExit) as caught:
        main(flow, "", ["--preset", "smoke"])
    assert caught.value.code == 2
    assert "the following arguments are required: --table" in capsys.readouterr().err
    assert main(flow, "", ["--preset", "smoke", "--table", "agent"]) == 2
    assert "error: no ablation 'agent': name one of advantages, agents, kl" in capsys.readouterr().err
