"""The report's figures of scores: intervals of differences, the waterfall of lost points, the selector's calibration.

Each takes the scores and gives a `Figure`: a title, an SVG, and the same in words. None where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.drawing import GRID, INK, SERIES, svg
from evaluation.result_tables import attributed, main_difference, subjects_differences
from evaluation.scores import Attribution, Calibration, Comparison, Scores
from evaluation.sentences import label, pair, verdict
from evaluation.tables import interval, points, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D")


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture and its words, for those who do not see it."""

    title: str
    alt: str
    svg: str


def intervals(scores: Scores) -> Figure | None:
    """The report's subject against every other system, then the main difference per type and hop count."""
    rows = [(pair(scores, c), c) for c in subjects_differences(scores)]
    for name in scores.types:
        if c := main_difference(scores, type=name):
            rows.append((f"{pair(scores, c)}, {name or '(none)'}", c))
    for hops in scores.hops:
        if c := main_difference(scores, hops=hops):
            rows.append((f"{pair(scores, c)}, {hops} hop{'' if hops == 1 else 's'}", c))
    if not rows:
        return None
    said = "; ".join(f"{name}: {signed(c.delta)} ({interval(c.low, c.high)})" for name, c in rows)
    return Figure(
        "Difference in F1 with 95 % interval: to the right of the line is better",
        f"Differences in F1 with 95 % intervals. {said}.",
        svg(lambda axes: _draw_intervals(axes, rows), "intervals", (4.6, 0.7 + 0.34 * len(rows))),
    )


def waterfall(scores: Scores) -> Figure | None:
    """From each attributed system's F1 to 100, agent by agent."""
    found = {label(scores, name): one for name, one in attributed(scores).items()}
    if not found:
        return None
    steps = list(dict.fromkeys(step.agent for one in found.values() for step in one.steps))
    said = [
        f"{name}: F1 {points(one.steps[0].f1)}, "
        + ", ".join(f"{points(step.delta)} lost at the {step.agent}" for step in one.steps[1:])
        for name, one in found.items()
    ]
    return Figure(
        "From the F1 of the answers to 100: what is lost at each agent",
        f"A waterfall of lost points. {'; '.join(said)}.",
        svg(lambda axes: _draw_waterfall(axes, steps, found), "waterfall", (4.6, 0.9 + 0.46 * len(steps))),
    )


def calibration(scores: Scores) -> Figure | None:
    """Confidence against the share that is exactly right: on the diagonal, the selector knows what it knows."""
    found = {label(scores, name): system.calibration for name, system in scores.systems.items() if system.calibration}
    main = scores.main
    ends = [label(scores, name) for name in (main.baseline, main.system)] if main else []
    shown = {name: found[name] for name in ends if name in found} or dict(list(found.items())[-2:])
    if not shown:
        return None
    said = [
        f"{name}: " + ", ".join(f"{points(one.confidence)} → {points(one.exact)}" for one in curve.bins)
        for name, curve in shown.items()
    ]
    return Figure(
        "How sure the selector is, and how often it is exactly right, in percent",
        f"Confidence → share exactly right. {'; '.join(said)}.",
        svg(lambda axes: _draw_calibration(axes, shown), "calibration", (3.9, 3.3)),
    )


# ---- drawing ---------------------------------------------------------------------------------------------------------


def _draw_intervals(axes: Axes, comparisons: Sequence[tuple[str, Comparison]]) -> None:
    for row, (_, c) in enumerate(comparisons):
        color = {"raised": SERIES[2], "lowered": SERIES[1]}.get(verdict(c), INK)
        axes.plot([100 * c.low, 100 * c.high], [row, row], color=color, linewidth=2, solid_capstyle="butt")
        axes.plot([100 * c.delta], [row], color=color, marker="o", markersize=5)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(comparisons)), [name for name, _ in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_xlabel("difference in F1, points")
    axes.spines["left"].set_visible(False)


def _draw_waterfall(axes: Axes, steps: Sequence[str], found: dict[str, Attribution]) -> None:
    """A row per step, in it a bar per system: from the F1 of the step before to that of this one."""
    height = 0.76 / len(found)
    for i, (name, one) in enumerate(found.items()):
        before = 0.0
        for step in one.steps:
            y = steps.index(step.agent) - 0.38 + height * (i + 0.5)
            start, end = 100 * before, 100 * step.f1
            color = SERIES[i % len(SERIES)]
            is_first = step is one.steps[0]
            axes.barh(
                y,
                end - start,
                0.86 * height,
                start,
                color=color,
                alpha=1 if i else 0.55,
                label=name if is_first else None,
            )
            axes.annotate(
                points(step.f1) if is_first else signed(step.delta).lstrip("+"),
                (max(start, end), y),
                (3, 0),
                textcoords="offset points",
                va="center",
                size=9,
            )
            before = step.f1
    axes.set_yticks(range(len(steps)), [step or "as it is" for step in steps])
    axes.set_ylim(len(steps) - 0.5, -0.5)
    axes.set_xlim(0, 114)  # room for the numbers
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_xlabel("F1")
    axes.spines["left"].set_visible(False)
    _legend(axes, len(found))


def _draw_calibration(axes: Axes, found: dict[str, Calibration]) -> None:
    axes.plot([0, 100], [0, 100], color=GRID, linewidth=1.2, linestyle="--")
    most = max(one.num_questions for curve in found.values() for one in curve.bins)
    for i, (name, curve) in enumerate(found.items()):
        x, y = ([100 * getattr(one, what) for one in curve.bins] for what in ("confidence", "exact"))
        color, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        axes.plot(x, y, color=color, linewidth=1.4, label=name, marker=marker, markersize=3)
        axes.scatter(x, y, [8 + 70 * one.num_questions / most for one in curve.bins], color=color, marker=marker)
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.grid()
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_xlabel("confidence in the selection")
    axes.set_ylabel("exactly right")
    _legend(axes, len(found))


def _legend(axes: Axes, num_columns: int) -> None:
    axes.legend(frameon=False, fontsize=9, ncols=num_columns, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
