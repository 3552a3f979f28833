"""Every benchmark script runs, and its JSON file is what tables are made from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mappo_step import setups, two_processes
from benchmarks.record import alone, compared, table, write

ROOT = Path(__file__).parents[2]


def test_a_table_has_a_row_per_case_and_a_file_what_it_was_made_from(tmp_path):
    cases = [compared("speed", 12.3456, 3.0, "episodes/s", ">= 4", {"ours": {"seconds": 1}}), alone("MFU", 41.0, "%")]
    assert table(cases).splitlines()[2:] == [
        "| speed | 12.35 | 3 | episodes/s | 4.12 | >= 4 |",
        "| MFU | 41 | – | % | – | – |",
    ]
    write(tmp_path / "new" / "out.json", cases, "notes")
    result = json.loads((tmp_path / "new" / "out.json").read_text())
    assert result["versions"]["torch"] and "cores" in result["machine"]
    assert result["cases"][0]["ratio"] == pytest.approx(4.115) and result["cases"][1]["theirs"] is None


def test_steps_that_two_processes_share_are_timed_without_the_first():
    steps = two_processes("demo", quick=True)
    setup = setups(True)["demo"]
    assert [step.num_episodes for step in steps] == [setup.config.questions_per_step] * setup.num_steps
    for step in steps:
        assert step.seconds >= 0.99 * (step.rollout_s + step.reference_s + step.update_s) > 0


@pytest.mark.slow
def test_the_mappo_step_benchmark_runs_quickly_and_records_every_case(tmp_path):
    out = tmp_path / "mappo_step.json"
    command = [sys.executable, "-m", "benchmarks.mappo_step", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {"machine", "versions", "notes", "cases"} == set(result)
    assert [case["target"] for case in result["cases"]] == ["", ">= 4", "", ">= 4", "<= 0.333", ""]
    for case in result["cases"]:
        assert {"case", "ours", "theirs", "unit", "ratio", "target"} <= set(case)
        assert case["ratio"] == pytest.approx(case["ours"] / case["theirs"], rel=0.01)
        assert case["case"] in done.stdout
