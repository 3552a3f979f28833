from __future__ import annotations

import re

import numpy as np
import pytest

from evaluation.figures import MAX_POINTS, Panel, _running_mean, curve_svg, panels


def test_panels_group_what_is_known_and_keep_the_rest() -> None:
    history = [
        {"step": 1.0, "mappo/reward": 0.1, "mappo/rewriter/kl": 0.2, "mappo/selector/kl": 0.3, "time/rollout_s": 4.0},
        {"step": 2.0, "mappo/reward": 0.2, "mappo/rewriter/kl": 0.3, "mappo/selector/kl": 0.4, "dev/f1": 0.5},
    ]
    known, others = panels(history)
    found = {panel.title: panel.series for panel in known}
    assert found["Greedy score on dev questions, in percent"] == {"F1": ((2.0,), (50.0,))}
    assert found["KL divergence per agent"] == {
        "rewriter": ((1.0, 2.0), (0.2, 0.3)),
        "selector": ((1.0, 2.0), (0.3, 0.4)),
    }
    assert "Value loss" not in found
    assert [panel.title for panel in others] == ["time/rollout_s"]
    assert panels([]) == ([], [])


def test_the_kept_step_is_marked_on_the_dev_score() -> None:
    history = [{"step": float(i), "dev/f1": 0.5, "mappo/reward": 0.1} for i in range(5)]
    (dev, reward), _ = panels(history, kept_step=3)
    assert (dev.kept_step, reward.kept_step) == (3, None)
    assert dev.alt.endswith("; the weights of step 3 were kept.")
    assert ">kept<" in curve_svg(dev)
    assert "kept" not in curve_svg(reward) + reward.alt


def test_running_mean_by_hand() -> None:
    assert _running_mean(np.array([1.0, 2.0, 6.0, 3.0]), 1).tolist() == [1.5, 3.0, 11 / 3, 4.5]


def test_svg_takes_its_colours_from_the_page_and_stays_small() -> None:
    steps = tuple(float(i) for i in range(50 * MAX_POINTS))
    values = tuple(np.random.default_rng(0).normal(size=len(steps)).tolist())
    svg = curve_svg(Panel("A <title>", {"<b>": (steps, values), "other": (steps, values)}))
    assert svg.startswith("<svg")
    assert len(svg) < 60_000
    assert "var(--series-2)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert "http" not in svg
    assert "<style" not in svg
    assert "<b>" not in svg


@pytest.mark.filterwarnings("error")
def test_texts_of_every_script_stay_texts() -> None:
    svg = curve_svg(Panel("種類", dict.fromkeys(("単一", "比較"), ((1.0, 2.0), (3.0, 4.0)))))
    assert ">単一<" in svg and ">比較<" in svg


def test_dollars_in_names_are_no_formula() -> None:
    svg = curve_svg(Panel("cost", dict.fromkeys(("$5 or $6", r"$\frac{$"), ((1.0, 2.0), (3.0, 4.0)))))
    assert ">$5 or $6<" in svg and r">$\frac{$<" in svg
