"""GPU benchmarks run where there is nothing but torch, transformers, sentence-transformers, peft and a few more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.mappo_step import LLAMA_1B, Shape
from benchmarks.loops import Step

ROOT = Path(__file__).parents[2]
MISSING = ("trl", "datasets", "faiss", "prefect", "mlflow", "flask", "waitress", "fastapi", "matplotlib")
BLOCKED = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {MISSING!r} else self.finder.find_spec(name, path, target)

    def find_distributions(self, context):
        found = getattr(self.finder, "find_distributions", None)
        return [] if found is None or context.name in {MISSING!r} else found(context)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_loop_and_its_gpu_benchmark_import_without_the_rest():
    done = run("import benchmarks.gpu.check, benchmarks.gpu.mappo_step, trainers.mappo.loop")
    assert done.returncode == 0, done.stderr
    assert run("import datasets").returncode != 0, "the test refuses nothing"


def test_a_whole_check_runs_without_the_rest(tmp_path):
    """On a CPU, with the tiny shape: both sides take their steps."""
    code = f"""
import json, torch
from pathlib import Path
from benchmarks import record
from benchmarks.gpu.mappo_step import TINY, measure
torch.set_num_threads(1)
cases = measure("cpu", TINY, quick=True)
record.write(Path({str(tmp_path / "out.json")!r}), cases, "notes")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert {"machine", "versions", "cases"} <= set(result)
    for case in result["cases"]:
        assert {"case", "ours", "theirs", "unit", "ratio", "target"} <= set(case)
        assert case["ours"] > 0
    named = {case["case"]: case for case in result["cases"]}
    assert named["episodes/s"]["theirs"] > 0 and named["episodes/s"]["target"] == ">= 4"
    assert {"rollout, response tokens", "update, time", "update, achieved"} <= set(named)


def test_retrieval_models_are_trained_without_the_rest(tmp_path):
    """On a CPU, with the tiny shape: every way to take a batch of the embedding model and of the reranker."""
    code = f"""
import logging, torch
from pathlib import Path
from benchmarks import record
from benchmarks.gpu.train_retrieval import TINY, measure
torch.set_num_threads(1)
logging.disable(logging.WARNING)
record.write(Path({str(tmp_path / "out.json")!r}), measure("cpu", TINY, rounds=1), "notes")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    cases = {case["case"]: case for case in json.loads((tmp_path / "out.json").read_text())["cases"]}
    assert all(case["ours"] > 0 and case["theirs"] > 0 for case in cases.values())
    for name in ("embedding, by length", "embedding, gradient caching", "reranker, by length"):
        assert cases[f"{name}: speed"]["unit"] == "queries/s"
        assert cases[f"{name}: padding"]["ours"] <= 10 < cases[f"{name}: padding"]["theirs"]


def test_rankers_score_without_the_rest() -> None:
    """On a CPU, with the tiny shapes: an encoder and a decoder."""
    code = """
import logging, torch
from benchmarks.gpu.rank import TINY, TINY_CAUSAL, measure
torch.set_num_threads(1)
logging.disable(logging.WARNING)
for shape in (TINY, TINY_CAUSAL):
    speed, achieved = measure("a", shape, "cpu", 1, None)
    assert speed.ours > 0 and speed.theirs > 0 and speed.unit == "pairs/s" and achieved.ours > 0
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_without_a_gpu_the_check_says_so_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.check"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.strip() == "No GPU that torch can use was found, so nothing was checked."


def test_update_flops_by_hand():
    """Two layers of 4 with one key-value head of two, 8 wide between, 10 words; a turn of 3 + 2 tokens, two epochs."""
    shape = Shape(
        hidden_size=4, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=8, vocabulary=10, dtype="float32"
    )
    weights = 2 * (16 + 8 + 8 + 16 + 3 * 32)  # q, k, v, o, and the three of the feed-forward
    assert shape.linear_weights == weights
    step = Step(1, 1.0, 1.0, 1.0, 1.0, ((3, 2),))
    expected = 2 * (5 * (4 * weights + 6 * 7) + 6 * 25 * 4 * 2 + 4 * 2 * 4 * 10)
    assert shape.update_flops(step, adapter_weights=7, num_epochs=2) == expected


def test_the_shape_is_that_of_a_model_of_a_billion_weights():
    assert 0.9e9 < LLAMA_1B.linear_weights < 1.0e9
    assert 1.2e9 < LLAMA_1B.linear_weights + LLAMA_1B.hidden_size * LLAMA_1B.vocabulary < 1.26e9
