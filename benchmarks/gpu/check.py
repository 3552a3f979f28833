"""Everything that needs a GPU, in one go: the tests marked gpu, then each GPU benchmark, then one table.

    python -m benchmarks.gpu.check                  # or: make gpu-check; under eight minutes
    python -m benchmarks.gpu.check --device cpu     # tiny shapes, no test: do the scripts run?

Results go to benchmarks/results/gpu/*.json. Nothing but a plain environment of torch, transformers,
sentence-transformers, peft and pydantic is needed, and pytest for the tests. A GPU benchmark is a module of this folder
with --device, --quick and --out; name it in BENCHMARKS.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks.record import Case, table

BENCHMARKS = ("train_retrieval", "rank", "mappo_step")
RESULTS = Path(__file__).parents[1] / "results" / "gpu"
TIME_LIMIT_S = 480.0
NO_TESTS = 5  # pytest's exit code where none was chosen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="folder for the JSON files (default: benchmarks/results/gpu)")
    given = parser.parse_args()
    on_gpu = given.device != "cpu"
    if on_gpu and not _has_gpu():
        print("No GPU that torch can use was found, so nothing was checked.", file=sys.stderr)
        return 1
    deadline = time.monotonic() + TIME_LIMIT_S
    failed = on_gpu and not _tests_pass(deadline)
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.out or (RESULTS if on_gpu else Path(scratch))
        for name in BENCHMARKS:
            out = folder / f"{name}.json"
            options = ["--device", given.device, "--out", str(out), *([] if on_gpu else ["--quick"])]
            if _runs([sys.executable, "-m", f"benchmarks.gpu.{name}", *options], deadline):
                found = [Case(**case) for case in json.loads(out.read_text(encoding="utf-8"))["cases"]]
                cases += [Case(**{**vars(case), "case": f"{name}: {case.case}"}) for case in found]
            else:
                failed = True
                print(f"{name} failed; see above", file=sys.stderr)
    print(table(cases))
    return int(failed)


def _has_gpu() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _tests_pass(deadline: float) -> bool:
    if find_spec("pytest") is None:
        print("pytest is not installed: the tests marked gpu are left out", file=sys.stderr)
        return True
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    return _runs(command, deadline, fine=(0, NO_TESTS))


def _runs(command: list[str], deadline: float, fine: tuple[int, ...] = (0,)) -> bool:
    """Its output goes to the screen, on stderr: stdout is for the one table."""
    try:
        done = subprocess.run(command, stdout=sys.stderr, timeout=max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        print(f"stopped: all GPU checks together may take {TIME_LIMIT_S:.0f} s", file=sys.stderr)
        return False
    return done.returncode in fine


if __name__ == "__main__":
    raise SystemExit(main())
