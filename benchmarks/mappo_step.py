"""How fast is a step of MAPPO, and how much memory does it take? Ours against a loop in the usual shape.

    python -m benchmarks.mappo_step              # writes benchmarks/results/mappo_step.json
    python -m benchmarks.mappo_step --quick      # smaller, under two minutes: does the script run?

"theirs" is benchmarks/reference_loop.py: transformers' generate on 4 left-padded prompts, logits at every position, a
second model as the reference. Both sides have the same weights to begin with, the same questions, retriever, number of
episodes and PPO epochs. Three questions:

- episodes per second on the demo's model and agents, every weight trained;
- the same with 4 layers of 512 and a vocabulary of 32,000, LoRA on all linear layers;
- peak memory of that model when the selector reads ten long passages, some 1,500 tokens. Each measurement is a process
  of its own; what counts is how far its resident memory rises above what it held once the models were loaded.

Speed is measured on one core, a single thread on either side, and on two, each side in the way natural to it: ours as
the demo trains, two processes of one thread that share every step (torchrun); theirs one process with two threads.

Weights are random, so responses hardly ever end before max_new_tokens, on either side.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import record
from benchmarks.record import Case, compared
from jointrag.agents import Chain, build_chain
from jointrag.config import AgentsConfig, Lora, MappoConfig
from jointrag.parent import exit_with_parent
from jointrag.presets import resolve
from tasks import supervisor

if TYPE_CHECKING:  # benchmarks.loops imports torch
    from benchmarks.loops import Loop, Step

RESULTS = Path(__file__).parent / "results" / "mappo_step.json"
SIDES = ("ours", "theirs")
ROUNDS = 3
CORES = 2
VOCABULARY = 32_000
NOTES = (
    "Random weights: responses run to max_new_tokens on both sides, except the selector's. A step is rollout, scoring "
    "and update; medians over {rounds} rounds after a warm-up, sides in turn. One core: one thread each. Two cores: "
    "ours two processes of one thread, theirs one process of two. Memory: one step in a fresh process of two threads; "
    "ours, theirs and ratio are the rise of the resident set's peak over what was resident once the models were loaded "
    "(theirs: policy and reference); the peaks themselves are in detail."
)


@dataclass(frozen=True)
class Setup:
    """One case: what is trained, on what."""

    name: str
    model: Callable[[Any], tuple[Any, Any]]  # World -> model, tokenizer
    config: MappoConfig
    agents: AgentsConfig
    num_steps: int = 1  # counted in each round; of a short step it takes several
    passage_words: int = 0

    def loop(self, side: str) -> Any:
        """Ours or theirs, from the same random weights."""
        import torch

        from benchmarks.loops import OurLoop
        from benchmarks.reference_loop import ReferenceLoop
        from benchmarks.workload import WordMatchRetriever, make_world

        torch.manual_seed(0)
        world = make_world(num_questions=256, passage_words=self.passage_words)
        model, tokenizer = self.model(world)
        chain: Chain = build_chain(self.agents)
        kind = {"ours": OurLoop, "theirs": ReferenceLoop}[side]
        retriever = WordMatchRetriever(world.passages)
        return kind(self.config, chain, model, tokenizer, world.questions, retriever, seed=0)


def setups(quick: bool) -> dict[str, Setup]:
    agents = resolve("demo", ["agents.rewriter.max_new_tokens=12"] if quick else []).agents
    config, fewer = _config(8 if quick else 64), _config(4 if quick else 16)
    # the setting that bounds the memory of ours: here one long turn at a time, where theirs has 4
    long = config.model_copy(
        update={"questions_per_step": 4 if quick else 8, "minibatch_episodes": 4, "tokens_per_forward": 2_048}
    )
    long_agents, long_words = AgentsConfig(), 140
    if quick:
        long_agents = AgentsConfig.model_validate(
            {"rewriter": {"max_new_tokens": 8}, "generator": {"max_new_tokens": 8}}
        )
        long_words = 40
    return {
        "demo": Setup("the demo's model", _demo, config, agents, num_steps=3),
        "wide": Setup(f"4 layers of 512, {VOCABULARY:,} words", _wide, fewer, agents),
        "memory": Setup(
            f"peak memory, {VOCABULARY:,} words, prompts of {450 if quick else 1500:,} tokens",
            _wide,
            long,
            long_agents,
            passage_words=long_words,
        ),
    }


def _config(num_episodes: int) -> MappoConfig:
    return MappoConfig(
        advantage="gae",
        rollouts_per_question=1,
        questions_per_step=num_episodes,
        minibatch_episodes=num_episodes // 2,
        dev_every=0,
        samples_every=0,
    )


def _demo(world: Any) -> tuple[Any, Any]:
    from benchmarks.workload import demo_model

    return demo_model(world, "cpu")


def _wide(world: Any) -> tuple[Any, Any]:
    from benchmarks.workload import llama

    return llama(
        world,
        "cpu",
        hidden_size=512,
        num_layers=4,
        num_heads=8,
        num_kv_heads=8,
        intermediate_size=1408,
        vocabulary=VOCABULARY,
        lora=Lora(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer episodes; writes no file unless --out is given")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} in benchmarks/results/; none with --quick")
    parser.add_argument("--cases", nargs="+", choices=list(setups(False)), default=list(setups(False)))
    parser.add_argument("--probe", choices=SIDES, help=argparse.SUPPRESS)  # one memory measurement, in this process
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)  # one of the processes of `two_processes`
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)  # of a worker
    given = parser.parse_args()
    if record.num_cores() < CORES:
        parser.error(f"compares what {CORES} cores can do, and finds {record.num_cores()} here")

    import torch

    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if given.worker:
        exit_with_parent()
        torch.set_num_threads(1)
        setups(given.quick)[given.cases[0]].loop("ours").run(given.steps, given.worker)
        return 0
    if given.probe:
        torch.set_num_threads(CORES)
        print(json.dumps(probe(setups(given.quick)["memory"], given.probe)))
        return 0
    cases: list[Case] = []
    for name in given.cases:
        print(f"{setups(given.quick)[name].name} …", file=sys.stderr)
        cases += memory(given.quick) if name == "memory" else speed(name, given.quick)
    print(record.table(cases))
    out = given.out or (None if given.quick else RESULTS)
    if out:
        record.write(out, cases, NOTES.format(rounds=_rounds(given.quick)))
    return 0


def speed(name: str, quick: bool) -> list[Case]:
    """Episodes per second, on one core and on two."""
    from benchmarks.loops import in_turn

    setup = setups(quick)[name]
    ours, theirs = setup.loop("ours"), setup.loop("theirs")
    for loop in (ours, theirs):
        _steps(loop, 1, threads=1)  # a warm-up, which is not counted
    one, their_one, two, their_two = in_turn(
        [
            lambda: _steps(ours, setup.num_steps, threads=1),
            lambda: _steps(theirs, setup.num_steps, threads=1),
            lambda: two_processes(name, quick),
            lambda: _steps(theirs, setup.num_steps, threads=CORES),
        ],
        _rounds(quick),
    )
    return [
        compared(
            f"{setup.name}, {cores}",
            mine.episodes_per_s,
            other.episodes_per_s,
            "episodes/s",
            target,
            {"ours": mine.detail(), "theirs": other.detail()},
        )
        for cores, mine, other, target in (("one core", one, their_one, ""), ("two cores", two, their_two, ">= 4"))
    ]


def _steps(loop: Loop, count: int, threads: int) -> list[Step]:
    """Steps in this process."""
    import torch

    torch.set_num_threads(threads)
    return [loop.step() for _ in range(count)]


def two_processes(name: str, quick: bool) -> list[Step]:
    """Steps of a run of ours that processes of one thread share, as the demo does, without the first one."""
    from benchmarks.loops import steps_of

    setup = setups(quick)[name]
    with tempfile.TemporaryDirectory() as out:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(CORES), "-m"]
        given = ["--worker", out, "--cases", name, "--steps", str(setup.num_steps + 1), *["--quick"] * quick]
        try:
            supervisor.run(
                [*launch, "benchmarks.mappo_step", *given],
                on_line=lambda line: None,  # the last ones are in the error
                environment={"OMP_NUM_THREADS": "1"},
            )
        except supervisor.CommandFailed as error:
            raise SystemExit("\n".join([f"ours in {CORES} processes failed:", *error.lines, str(error)])) from None
        return steps_of(Path(out), setup.config)[1:]


def memory(quick: bool) -> list[Case]:
    """Rise of the peak in one step, a process per measurement; and the episodes per second of the same processes."""
    found: dict[str, dict[str, float]] = {}
    for side in SIDES:
        command = [sys.executable, "-m", "benchmarks.mappo_step", "--probe", side, *["--quick"] * quick]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"measuring {side} failed:\n{done.stderr}")
        found[side] = json.loads(done.stdout.splitlines()[-1])
    detail = {side: {name: round(value, 3) for name, value in row.items()} for side, row in found.items()}
    rise, speed = ([found[side][name] for side in SIDES] for name in ("rise_mib", "episodes_per_s"))
    return [
        compared(setups(quick)["memory"].name, rise[0], rise[1], "MiB", "<= 0.333", detail),
        compared("episodes/s in the same processes, their first step", speed[0], speed[1], "episodes/s"),
    ]


def probe(setup: Setup, side: str) -> dict[str, float]:
    """Load, take one step, and say what it took."""
    loop = setup.loop(side)
    loaded = record.resident_mib("VmRSS")
    step = loop.step()
    peak = record.resident_mib("VmHWM")
    return {
        "rise_mib": peak - loaded,
        "peak_mib": peak,
        "loaded_mib": loaded,
        "episodes_per_s": step.num_episodes / step.seconds,
        "rollout_s": step.rollout_s,
        "reference_s": step.reference_s,
        "update_s": step.update_s,
        "longest_prompt": float(max(prompt for prompt, _ in step.lengths)),
    }


def _rounds(quick: bool) -> int:
    return 1 if quick else ROUNDS


if __name__ == "__main__":
    raise SystemExit(main())
