from __future__ import annotations

import pytest

from evaluation.scores import Comparison
from evaluation.sentences import verdict
from evaluation.tables import Table, duration, markdown, number, plain, points, signed


@pytest.mark.parametrize(
    "share, text",
    [(0.2321, "+23.2"), (-0.011, "−1.1"), (0.0, "0.0"), (0.0003, "+0.03"), (-0.0003, "−0.03"), (1.0, "+100.0")],
)
def test_signed(share: float, text: str) -> None:
    assert signed(share) == text


def test_number() -> None:
    assert [number(value) for value in (1234.567, -0.48, None)] == ["1,234.57", "−0.48", "–"]


def test_points() -> None:
    assert points(0.7825) == "78.2"
    assert points(None) == "–"


@pytest.mark.parametrize(
    "seconds, text", [(0.123, "0.1 s"), (9.96, "10 s"), (59.7, "1 min 0 s"), (75, "1 min 15 s"), (7_322, "2 h 2 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "low, high, expected", [(0.01, 0.2, "raised"), (-0.2, -0.01, "lowered"), (0.0, 0.2, "same"), (-0.1, 0.1, "same")]
)
def test_verdict_needs_the_whole_interval(low: float, high: float, expected: str) -> None:
    comparison = Comparison(
        system="mappo",
        baseline="warm_start",
        metric="f1",
        type=None,
        delta=(low + high) / 2,
        low=low,
        high=high,
        share_not_better=0.5,
        num_questions=10,
    )
    assert verdict(comparison) == expected


def test_renderings() -> None:
    table = Table("A | caption", ("name", "F1"), (("a*b", "1.0"), ("<i>", "22.0")), note="x_y")
    assert plain(table) == "name    F1\n──────────\na*b    1.0\n<i>   22.0"
    assert markdown(table).splitlines() == [
        "**A \\| caption**",
        "",
        "| name | F1 |",
        "| :-- | --: |",
        "| a\\*b | 1.0 |",
        "| &lt;i&gt; | 22.0 |",
        "",
        "x\\_y",
    ]
