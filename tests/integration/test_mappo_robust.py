"""What can go wrong in a long run: it is killed, a gradient is not a number, the policy runs away."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jointrag.config import MappoConfig
from jointrag.jsonl import read_jsonl
from jointrag.tracking import NoTracker
from jointrag.types import Episode
from tests.tiny import QUESTIONS, FixedRetriever, chain, tiny_lm
from trainers.mappo import loop
from trainers.mappo.loop import run
from trainers.mappo.policy import Policy

CONFIG = MappoConfig(
    advantage="gae",
    rollouts_per_question=1,
    num_steps=6,
    questions_per_step=10,
    minibatch_episodes=5,
    learning_rate=1e-3,
    checkpoint_every=1,
    dev_every=2,
)


def with_settings(**settings) -> MappoConfig:
    return MappoConfig.model_validate(CONFIG.model_dump() | settings)


def trained(out: Path, config: MappoConfig = CONFIG, tracker=NoTracker()):
    policy = Policy(tiny_lm(), config)
    progress = run(config, chain(), policy, QUESTIONS, QUESTIONS, FixedRetriever(), seed=0, out=out, tracker=tracker)
    return policy, progress


def history(out: Path):
    lines = (out / "history.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if "time/" not in name} for line in lines]


def weights(policy: Policy):
    return [p.detach().clone() for p in policy.named_parameters().values()]


def same(ours, theirs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# ---- killed ----------------------------------------------------------------------------------------------------------

KILLED_AFTER = (1, 2, 4)  # steps done: each start of the run is killed once its history says so


def test_a_run_killed_between_steps_ends_where_an_uninterrupted_one_does(tmp_path):
    """kill -9 at several steps, checkpoints of every second step: weights and metrics are the same to the last bit."""
    for steps in KILLED_AFTER:
        kill_after(steps, tmp_path / "killed")
    subprocess.run(command(tmp_path / "killed"), check=True)
    subprocess.run(command(tmp_path / "whole"), check=True)
    killed, whole = (torch.load(tmp_path / name / "weights.pt") for name in ("killed", "whole"))
    assert same(killed, whole)
    assert history(tmp_path / "killed") == history(tmp_path / "whole")


def command(out: Path):
    return [sys.executable, "-m", "tests.integration.test_mappo_robust", str(out)]


def kill_after(steps: int, out: Path) -> None:
    process = subprocess.Popen(command(out))
    lines = out / "history.jsonl"
    while not (lines.exists() and f'"step": {steps},' in lines.read_text()):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "weights.pt").exists()


# ---- not a number ----------------------------------------------------------------------------------------------------


class Poisoned:
    """The loop's update, whose gradients are not a number in the given optimiser steps (counted from 0)."""

    def __init__(self, monkeypatch, bad) -> None:
        self.count, self.bad = -1, set(bad)
        original = torch.optim.AdamW.zero_grad
        evaluate = Policy.evaluate

        def zero_grad(optimizer, *args, **kwargs):
            self.count += 1
            return original(optimizer, *args, **kwargs)

        def poisoned(policy, turns):
            now = evaluate(policy, turns)
            if self.count in self.bad:
                now.logprobs.register_hook(lambda gradient: gradient * float("nan"))
            return now

        monkeypatch.setattr(torch.optim.AdamW, "zero_grad", zero_grad)
        monkeypatch.setattr(Policy, "evaluate", poisoned)


def test_an_update_that_is_not_a_number_is_skipped_and_counted(tmp_path, monkeypatch):
    Poisoned(monkeypatch, bad=[1, 2, 5])
    policy, progress = trained(tmp_path)
    assert progress.skipped_updates == 3
    assert progress.step == CONFIG.num_steps
    assert all(torch.isfinite(p).all() for p in policy.parameters())
    assert [line.get("mappo/skipped_updates") for line in history(tmp_path)][1:4] == [1.0, 2.0, 3.0]


def test_the_third_bad_update_in_a_row_stops_and_saves_the_batch(tmp_path, monkeypatch):
    Poisoned(monkeypatch, bad=[3, 4, 5])
    with pytest.raises(ValueError, match=r"3 updates in a row.*bad_batch\.jsonl.*learning_rate"):
        trained(tmp_path)
    batch = list(read_jsonl(tmp_path / "bad_batch.jsonl", Episode))
    assert len(batch) == CONFIG.questions_per_step
    assert all(turn.logprobs for episode in batch for turn in episode.turns)


# ---- best weights ----------------------------------------------------------------------------------------------------


def dev_scores(monkeypatch, scores):
    """The dev scores of steps 0, 2, 4, 6 …, whatever the policy is."""
    given = iter(scores)
    monkeypatch.setattr(loop, "dev_scores", lambda *args: [next(given)] * 10)


@pytest.mark.parametrize(("keep", "step"), [("best", 4), ("last", 6)])
def test_the_best_weights_on_dev_are_kept(tmp_path, monkeypatch, keep, step):
    dev_scores(monkeypatch, [0.1, 0.2, 0.4, 0.3])
    policy, progress = trained(tmp_path / "run", with_settings(keep=keep))
    assert (progress.kept_step, progress.kept_dev_f1) == (4, 0.4)
    state = torch.load(tmp_path / "run" / "checkpoints" / f"step-{step:06d}.pt")["policy"] if step == 6 else None
    best = torch.load(tmp_path / "run" / "checkpoints" / "best-000004.pt")["policy"]
    assert same(weights(policy), (state or best).values())


def test_a_difference_that_dev_cannot_tell_from_none_does_not_count(tmp_path, monkeypatch):
    """4, 6, 5 and 3 of 10 right: the standard error is 0.16, so 5 is as good as 6, and 3 is not."""
    given = iter([[1.0] * right + [0.0] * (10 - right) for right in (4, 6, 5, 3)])
    monkeypatch.setattr(loop, "dev_scores", lambda *args: next(given))
    _, progress = trained(tmp_path)
    assert (progress.kept_step, progress.kept_dev_f1, progress.best_dev_f1) == (4, 0.5, 0.6)


# ---- the watchdog ----------------------------------------------------------------------------------------------------

ALWAYS_ALARMED = {"window": 1, "max_kl": None, "max_penalised": None, "min_entropy": 100.0}


def test_a_stopped_run_says_why_and_keeps_the_best_weights(tmp_path, monkeypatch, caplog):
    dev_scores(monkeypatch, [0.5, 0.1, 0.1])
    start = weights(Policy(tiny_lm(), CONFIG))
    policy, progress = trained(tmp_path, with_settings(watchdog={"action": "stop", **ALWAYS_ALARMED}))
    assert progress.step == 2
    assert "min_entropy" in progress.ended
    assert "min_entropy" in history(tmp_path)[-1]["watchdog"]
    assert "min_entropy" in caplog.text
    assert same(weights(policy), start)  # step 0 was best


def test_a_roll_back_goes_on_from_the_best_weights_at_half_the_rate(tmp_path, monkeypatch):
    dev_scores(monkeypatch, [0.1, 0.5, 0.2, 0.2, 0.2])
    settings = {"action": "roll_back", "max_roll_backs": 1, **ALWAYS_ALARMED, "window": 3}
    rolled, best = [], []
    restore = loop.Checkpoints.restore_best

    def restore_best(checkpoints, progress):
        restore(checkpoints, progress)
        rolled.append(weights(checkpoints._policy))
        best.append(list(torch.load(checkpoints.folder / "best-000002.pt")["policy"].values()))

    monkeypatch.setattr(loop.Checkpoints, "restore_best", restore_best)
    _, progress = trained(tmp_path, with_settings(num_steps=7, watchdog=settings))
    assert progress.rate_factor == 0.5
    assert progress.step == 7  # time went on
    assert same(rolled[0], best[0])
    rates = [line["mappo/learning_rate"] for line in history(tmp_path)[1:]]
    assert rates[6] < 0.5 * rates[5]


# ---- for people ------------------------------------------------------------------------------------------------------


class Notebook(NoTracker):
    def __init__(self) -> None:
        self.tables: list[tuple[str, list[int]]] = []
        self.texts: list[str] = []

    def log_table(self, rows, name):
        self.tables.append((name, [row["step"] for row in rows]))

    def log_text(self, text, name):
        self.texts.append(f"{name}: {text}")


def test_episodes_and_warnings_reach_the_tracker(tmp_path):
    tracker = Notebook()
    trained(tmp_path, with_settings(samples_every=4, watchdog=ALWAYS_ALARMED), tracker)
    assert [(name, set(steps)) for name, steps in tracker.tables] == [("episodes", {4}), ("episodes", {6})]
    assert "min_entropy" in tracker.texts[0]


def test_every_step_says_where_its_time_and_memory_went(tmp_path):
    trained(tmp_path)
    line = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])
    phases = ("rollout", "retrieval", "reference", "update")
    assert sum(line[f"time/{phase}_s"] for phase in phases) == pytest.approx(line["time/step_s"])
    assert 0 <= line["time/update_padding"] < 0.9
    assert 0 <= line["time/rollout_padding"] < 0.9
    assert line["time/peak_memory_mb"] > 50
    rates = ("episodes", "rollout_tokens", "reference_tokens", "update_tokens")
    assert all(line[f"time/{name}_per_s"] > 0 for name in rates)


if __name__ == "__main__":  # python -m tests.integration.test_mappo_robust OUT: one run, as a process to be killed
    done, _ = trained(Path(sys.argv[1]), with_settings(checkpoint_every=2))
    torch.save(weights(done), Path(sys.argv[1]) / "weights.pt")
