"""pip install . into an empty environment: a reranker and the command work without the pipeline's packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_cross_encoder import plain_scores, tiny_cross_encoder
from tests.word_rankers import WORDS

ROOT = Path(__file__).parents[2]
MISSING = ("prefect", "mlflow", "trl", "flask", "sentence_transformers", "faiss", "peft", "datasets", "pytest")
TORCH = "torch==2.13.0"


@pytest.mark.slow
def test_a_reranker_is_all_that_is_installed(tmp_path: Path) -> None:
    """TORCH_INDEX, as in the Makefile: where torch comes from, if not from pip's own index."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=300)
    python = str(tmp_path / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    subprocess.run([*pip, *index, TORCH], check=True, timeout=1800)
    source = tmp_path / "source"  # pip writes build/ beside what it installs
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", str(source)], check=True, timeout=120)
    subprocess.run([*pip, str(source)], check=True, timeout=1800)

    model = tiny_cross_encoder(tmp_path / "model")
    texts = ["deso kite bara", WORDS[7], " ".join(WORDS)]
    (tmp_path / "docs.txt").write_text("\n".join(texts))
    code = f"""
import json, sys
from importlib.util import find_spec
assert not [name for name in {MISSING!r} if find_spec(name)]
from jointrag import Reranker
print(json.dumps(Reranker({str(model)!r}, device="cpu").score([("bara deso", text) for text in {texts!r}])))
"""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = plain_scores(model, [("bara deso", text) for text in texts])
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected, abs=1e-4)

    command = [str(tmp_path / "venv" / "bin" / "jointrag"), "rank", "--model", str(model), "--query", "bara deso"]
    done = subprocess.run(
        [*command, "--json", "docs.txt"], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout.splitlines()[0])
    assert best["text"] == texts[max(range(3), key=lambda i: expected[i])]
