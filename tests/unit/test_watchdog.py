"""The watchdog on made-up metrics: when it speaks, what it says, and that it forgets nothing when resumed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from typing import Any

import pytest

from jointrag.config.mappo import WatchdogConfig
from trainers.mappo.watchdog import GO, Verdict, Watchdog

GOOD = {"mappo/kl": 1.0, "mappo/entropy": 0.5, "mappo/reward": 0.4, "mappo/rewriter/penalised": 0.1}


def settings(**values: Any) -> WatchdogConfig:
    return WatchdogConfig(**{"window": 3, "action": "stop", "max_reward_drop": 0.02, **values})


def verdicts(watchdog: Watchdog, steps: Iterable[dict[str, float]], first: int = 1) -> list[Verdict]:
    return [watchdog.look(step, GOOD | metrics) for step, metrics in enumerate(steps, first)]


def actions(config: WatchdogConfig, name: str, values: Iterable[float]) -> list[str]:
    return [verdict.action for verdict in verdicts(Watchdog(config), ({name: value} for value in values))]


LIMITS = {
    "kl": ("mappo/kl", [23.1] * 6, "KL to the warm start is 23.1 nats per response over the last 3 steps, above "
           "mappo.watchdog.max_kl=20; lower mappo.learning_rate or raise mappo.kl_coefficient"),
    "entropy": ("mappo/entropy", [0.001] * 6, "the policy's entropy is 0.001 nats per token over the last 3 steps, "
                "below mappo.watchdog.min_entropy=0.005; raise mappo.entropy_coefficient"),
    "penalised": ("mappo/selector/penalised", [0.75] * 6, "75 % of the selector's responses are malformed over the "
                  "last 3 steps, above mappo.watchdog.max_penalised=0.5; read the sampled episodes"),
    "reward": ("mappo/reward", [0.4] * 3 + [0.3] * 6, "the reward is 0.300 over the last 3 steps, and was 0.400 over "
               "the first 3: more than mappo.watchdog.max_reward_drop=0.02 lower; lower mappo.learning_rate"),
}  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_warns_after_a_window_and_acts_after_another(limit: str) -> None:
    name, values, reason = LIMITS[limit]
    said = verdicts(Watchdog(settings()), ({name: value} for value in values))
    warned = len(values) - 4  # all windows but the reward's are full at once; the reward's is after two windows
    assert [verdict.action for verdict in said] == ["go"] * warned + ["warn", "go", "go", "stop"]
    assert said[warned].reason.startswith(reason)
    assert said[-1].reason.startswith(reason)
    assert said[-1].reason.endswith(f"(warned at step {warned + 1}); training ends here")


@pytest.mark.parametrize(
    "name, value, off",
    [
        ("mappo/kl", 1e9, "max_kl"),
        ("mappo/entropy", 0.0, "min_entropy"),
        ("mappo/rewriter/penalised", 1.0, "max_penalised"),
        ("mappo/reward", -1.0, "max_reward_drop"),
    ],
)
def test_null_switches_a_limit_off(name: str, value: float, off: str) -> None:
    values = [GOOD[name]] * 3 + [value] * 9
    assert "stop" in actions(settings(), name, values)
    assert set(actions(settings(**{off: None}), name, values)) == {"go"}


def test_what_is_exactly_at_its_limit_is_allowed() -> None:
    at = {"mappo/kl": 20.0, "mappo/entropy": 0.005, "mappo/rewriter/penalised": 0.5}
    assert verdicts(Watchdog(settings()), [at] * 9) == [GO] * 9


def test_it_is_the_mean_that_counts_not_a_single_step() -> None:
    assert actions(settings(), "mappo/kl", [1, 1, 50, 1, 1, 50, 1, 1, 50]) == ["go"] * 9
    assert actions(settings(), "mappo/kl", [1, 1, 50, 10, 1]) == [
        "go",
        "go",
        "go",
        "warn",
        "go",
    ]  # 20.33 and still 20.33


def test_recovery_in_time_is_the_end_of_it_and_a_new_lapse_is_a_new_warning() -> None:
    values = [30, 30, 30, 30, 1, 1, 30, 30, 30, 30, 30, 30]
    #         mean 30 from the 3rd, 20.3 at the 5th, 10.7 at the 6th and 7th, 20.3 from the 8th
    expected = ["go", "go", "warn", "go", "go", "go", "go", "warn", "go", "go", "stop", "stop"]
    assert actions(settings(), "mappo/kl", values) == expected


def test_action_warn_says_it_once_until_it_comes_back() -> None:
    values = [30] * 12 + [1] * 3 + [30] * 5
    said = actions(settings(action="warn"), "mappo/kl", values)
    assert [step for step, action in enumerate(said, 1) if action != "go"] == [3, 17]
    assert set(said) == {"go", "warn"}


def test_the_reward_is_compared_with_the_first_window_only() -> None:
    slowly = [0.40 - 0.001 * i for i in range(40)]  # no two neighbouring windows differ by the allowed drop
    said = actions(settings(action="warn"), "mappo/reward", slowly)
    assert said.count("warn") == 1
    # first window: mean 0.399; the window that ends with step n has the mean 0.4 - 0.001 * (n - 2)
    assert said.index("warn") + 1 == 24


def test_two_limits_in_one_sentence() -> None:
    both = {"mappo/kl": 50.0, "mappo/entropy": 0.0}
    said = verdicts(Watchdog(settings()), [both] * 6)
    assert said[2].action == "warn"
    assert "max_kl=20" in said[2].reason and "; also: " in said[2].reason and "min_entropy=0.005" in said[2].reason
    assert said[5].action == "stop" and "max_kl" in said[5].reason and "min_entropy" in said[5].reason


def test_a_new_warning_is_not_lost_beside_an_old_one() -> None:
    steps = [{"mappo/kl": 50.0}] * 4 + [{"mappo/kl": 50.0, "mappo/entropy": -1.5}] * 2
    said = verdicts(Watchdog(settings(action="warn")), steps)
    assert [verdict.action for verdict in said] == ["go", "go", "warn", "go", "warn", "go"]
    assert "min_entropy" in said[4].reason and "max_kl" not in said[4].reason


def test_every_agent_has_its_own_limit() -> None:
    steps = [{"mappo/rewriter/penalised": 0.9}] * 4 + [
        {"mappo/rewriter/penalised": 0.9, "mappo/selector/penalised": 0.9}
    ] * 3
    said = verdicts(Watchdog(settings()), steps)
    assert "rewriter's responses" in said[2].reason
    # the selector's mean is over the steps in which it was measured
    assert [verdict.action for verdict in said] == ["go", "go", "warn", "go", "warn", "stop", "stop"]
    assert "selector's responses" in said[4].reason
    assert "selector's" not in said[5].reason


def test_after_a_roll_back_the_windows_start_afresh_and_the_start_reward_stays() -> None:
    config = settings(action="roll_back", max_roll_backs=2)
    values = [0.4] * 3 + [0.3] * 6
    watchdog = Watchdog(config)
    said = verdicts(watchdog, ({"mappo/reward": value} for value in values))
    assert [verdict.action for verdict in said] == ["go"] * 5 + ["warn", "go", "go", "roll_back"]
    again = verdicts(watchdog, [{"mappo/reward": 0.3}] * 6, first=4)  # the steps may be counted from the checkpoint's
    assert [verdict.action for verdict in again] == ["go", "go", "warn", "go", "go", "roll_back"]
    assert "was 0.400 over the first 3" in again[2].reason
    assert said[-1].reason.endswith("(warned at step 6); training goes back to its best checkpoint")


def test_more_roll_backs_than_allowed_end_the_training() -> None:
    watchdog = Watchdog(settings(action="roll_back", max_roll_backs=2))
    said = verdicts(watchdog, [{"mappo/kl": 50.0}] * 18)
    assert [v.action for v in said if v.action not in ("go", "warn")] == ["roll_back", "roll_back", "stop"]
    assert said[-1].reason.endswith(
        "training was rolled back as often as mappo.watchdog.max_roll_backs=2 allows and ends here"
    )
    assert "KL to the warm start is 50" in said[-1].reason


@pytest.mark.parametrize("value", [math.nan, None])
def test_what_was_not_measured_does_not_count(value: float | None) -> None:
    def step(**metrics: float | None) -> dict[str, float]:
        return {f"mappo/{name}": number for name, number in metrics.items() if number is not None}

    watchdog = Watchdog(settings())
    nothing = dict.fromkeys(GOOD, math.nan)
    assert [watchdog.look(i, nothing if value is not None else {}) for i in range(9)] == [GO] * 9
    watchdog = Watchdog(settings())
    said = [watchdog.look(i, step(kl=kl)) for i, kl in enumerate([30.0, value, value, 30.0, value, 30.0], 1)]
    assert [verdict.action for verdict in said] == ["go", "go", "warn", "go", "go", "stop"]


def test_infinite_values_are_extreme_ones() -> None:
    assert actions(settings(), "mappo/kl", [math.inf] * 3)[-1] == "warn"
    assert actions(settings(), "mappo/reward", [-math.inf] * 9) == ["go"] * 9  # no lower than at the start


def noisy(num_steps: int) -> list[dict[str, float]]:
    """Metrics that cross every limit now and then, with gaps."""
    rng = random.Random(3)
    steps = []
    for i in range(num_steps):
        bad = (i // 9) % 3 == 1
        metrics = {
            "mappo/kl": rng.uniform(15, 40) if bad else rng.uniform(0, 15),
            "mappo/entropy": rng.choice([0.001, 0.2, math.nan]),
            "mappo/reward": rng.uniform(0.0, 0.2) if bad else rng.uniform(0.3, 0.5),
            "mappo/selector/penalised": rng.random(),
            "mappo/selector/kl": 99.0,
            "time/update_s": 1.0,
        }
        steps.append(metrics if rng.random() > 0.1 else {})
    return steps


@pytest.mark.parametrize("action", ["warn", "stop", "roll_back"])
def test_a_split_run_equals_a_whole_one(action: str) -> None:
    config = settings(action=action, max_roll_backs=100)
    steps = noisy(90)
    whole = verdicts(Watchdog(config), steps)
    assert {verdict.action for verdict in whole} >= {"go", "warn", action}
    for cut in range(len(steps) + 1):
        first = Watchdog(config)
        said = verdicts(first, steps[:cut])
        second = Watchdog(config)
        second.restore(json.loads(json.dumps(first.state())))
        assert said + verdicts(second, steps[cut:], first=cut + 1) == whole


def test_the_state_is_a_copy() -> None:
    watchdog = Watchdog(settings())
    watchdog.restore({})  # a run that begins
    verdicts(watchdog, [{}] * 3)
    state = watchdog.state()
    before = json.dumps(state)
    other = Watchdog(settings())
    other.restore(state)
    verdicts(other, [{"mappo/kl": 50.0}] * 3)
    verdicts(watchdog, [{"mappo/kl": 50.0}] * 3)
    assert json.dumps(state) == before
