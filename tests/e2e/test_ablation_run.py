"""An ablation from the command line, at its smallest: all trainings, the table, and a rerun that trains nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.ablation_data import Result

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_smoke_ablation(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-m", "flows.ablation", "--preset", "smoke", "--table", "penalties"]

    def run() -> str:
        done = subprocess.run(
            [*command, "--seeds", "0", "1", "--set", f"workspace={tmp_path}"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    first = run()
    assert first.count("] retriever  finished earlier") == 2  # the second row of each seed takes it over
    assert first.count("] warm_start finished earlier") == 2
    assert first.count("] mappo      finished earlier") == 0
    (file,) = tmp_path.glob("runs/ablation/*/ablation.json")
    result = Result.read(file)
    assert [row.name for row in result.rows] == ["with penalties", "without penalties"]
    assert result.seeds == (0, 1)
    assert f"table  {file.with_name('ablation.html')}" in first

    again = run()
    assert again.count("] mappo      finished earlier") == 4
    assert "[1/1] ablation finished earlier" in again
