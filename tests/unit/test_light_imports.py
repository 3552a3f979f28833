"""What `from jointrag import Reranker` may load: torch, and next to nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIPELINE = {"prefect", "mlflow", "trl", "flask", "sentence_transformers", "pandas", "faiss", "peft", "datasets"}


def modules_after(code: str) -> set[str]:
    code = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_importing_the_reranker_loads_torch_and_little_more() -> None:
    with_torch = modules_after("import torch, tqdm, threading, concurrent.futures.thread")
    found = modules_after("from jointrag import Reranker")
    assert "jointrag.reranker" in found and "torch" in found
    assert not {name.partition(".")[0] for name in found} & (PIPELINE | {"transformers", "pydantic"})
    more = {name for name in found - with_torch if not name.startswith("jointrag")}
    assert len(more) < 20, f"beyond torch: {sorted(more)}"


def test_importing_jointrag_loads_no_torch() -> None:
    assert not {name.partition(".")[0] for name in modules_after("import jointrag")} & (PIPELINE | {"torch", "numpy"})
