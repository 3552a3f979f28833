"""Which advantage estimator learns most in the same time, and should advantages be normalised per agent or over all?

    python -m benchmarks.estimators                       # seeds 3, 4, 5; some three minutes a run on one core
    python -m benchmarks.estimators --seeds 3 --out a.json --workspace work

The demo's pipeline up to the warm start is made once per seed; every variant then trains from it with the same number
of steps and of episodes in a step, in one process, and answers the same held-out questions. Seconds are reported:
variants differ in them by a few per cent. Runs of single seeds can go side by side and be joined (`--join`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import demo
from benchmarks.record import environment
from jointrag.jsonl import write_atomically

RESULTS = demo.RESULTS.with_name("estimators.json")
SINGLE = ["mappo.questions_per_step=64", "mappo.rollouts_per_question=1"]
GROUPS = ["mappo.questions_per_step=16", "mappo.rollouts_per_question=4"]
VARIANTS = {
    "gae, per agent": ["mappo.advantage=gae", "mappo.whiten=agent", *SINGLE],
    "gae, over all": ["mappo.advantage=gae", "mappo.whiten=all", *SINGLE],
    "group, per agent": ["mappo.advantage=group", "mappo.whiten=agent", *GROUPS],
    "rloo, per agent": ["mappo.advantage=rloo", "mappo.whiten=agent", *GROUPS],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--quick", action="store_true", help="the smoke preset, one seed: does the script run?")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} in benchmarks/results/; none with --quick")
    parser.add_argument("--workspace", type=Path, default=Path(), help="where stage outputs go (default: here)")
    parser.add_argument("--join", type=Path, nargs="+", metavar="FILE", help="join the rows of earlier results instead")
    given = parser.parse_args()
    out = given.out or (None if given.quick else RESULTS)
    if given.join:
        rows = [row for path in given.join for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    else:
        rows = [
            _run("smoke" if given.quick else "demo", seed, name, given)
            for seed in (given.seeds[:1] if given.quick else given.seeds)
            for name in given.variants
        ]
    print(table(rows))
    if out:
        write_atomically(out, json.dumps(environment() | {"steps": given.steps, "rows": rows}, indent=2) + "\n")
    return 0


def _run(preset: str, seed: int, name: str, given: argparse.Namespace) -> dict[str, Any]:
    settings = ["control.enabled=false", "runtime.num_processes=1", "mappo.dev_every=0", *VARIANTS[name]]
    if preset == "demo":
        settings.append(f"mappo.num_steps={given.steps}")
    row = demo.run(preset, seed, given.workspace, settings)
    print(f"seed {seed}, {name}: {100 * row['delta_f1']:+.1f}")
    return {"variant": name, **row}


def table(rows: list[dict[str, Any]]) -> str:
    """Gain in F1 per variant and seed, their mean, and the mean seconds of training, in Markdown."""
    seeds = sorted({row["seed"] for row in rows})
    lines = [
        "| advantage, normalised | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean gain | seconds |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    for name in dict.fromkeys(row["variant"] for row in rows):
        of = {row["seed"]: row for row in rows if row["variant"] == name}
        cells = [f"{100 * of[seed]['delta_f1']:+.1f}" if seed in of else "–" for seed in seeds]
        gain = 100 * mean(row["delta_f1"] for row in of.values())
        seconds = mean(row["train_seconds"] for row in of.values())
        lines.append(f"| {name} | {' | '.join(cells)} | {gain:+.1f} | {seconds:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
