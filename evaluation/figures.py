"""The report's learning curves: small plots over training steps.

In the page each is an SVG of its own (evaluation/drawing.py); the Markdown report gets all of them in one PNG on white.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.drawing import INK, SERIES, STYLE, STYLES, svg
from evaluation.result_tables import METRIC_LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES = (4.0, 2.4)
MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class Panel:
    """One small plot over training steps: name → (steps, values)."""

    title: str
    series: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    kept_step: int | None = None
    """Marked where given: the step whose weights were kept."""

    @property
    def alt(self) -> str:
        """The panel in words, for those who do not see it."""
        ends = [
            f"{name} from {y[0]:.3g} at step {x[0]:g} to {y[-1]:.3g} at step {x[-1]:g}"
            for name, (x, y) in self.series.items()
        ]
        kept = "" if self.kept_step is None else f"; the weights of step {self.kept_step} were kept"
        return f"{self.title}: {'; '.join(ends)}{kept}."


# title, keys of history.jsonl (the group in the pattern names the curve), factor
PANELS: tuple[tuple[str, str, float], ...] = (
    ("Greedy score on dev questions, in percent", r"dev/(\w+)", 100),
    ("Reward on the training questions, sampled", r"mappo/(reward)", 1),
    ("KL divergence from the warm start", r"mappo/(kl)", 1),
    ("KL divergence per agent", r"mappo/(\w+)/kl", 1),
    ("Penalised responses per agent, in percent", r"mappo/(\w+)/penalised", 100),
    ("Tokens per response", r"mappo/(\w+)/response_tokens", 1),
    ("Sub-questions and passages read", r"mappo/(sub_questions|passages_read)", 1),
    ("Entropy of the responses", r"mappo/(?:(\w+)/)?entropy", 1),
    ("Policy loss", r"mappo/(policy_loss)", 1),
    ("Value loss", r"mappo/(value_loss)", 1),
    ("Share of variance the critic explains", r"mappo/(explained_variance)", 1),
)


def panels(history: Sequence[dict[str, float]], kept_step: int | None = None) -> tuple[list[Panel], list[Panel]]:
    """The known panels with data in `history`, and one for each other recorded value. `kept_step` is marked on the dev
    score, which decided it."""
    keys = [key for key in dict.fromkeys(key for row in history for key in row) if key != "step"]
    known, used = [], set()
    for title, pattern, factor in PANELS:
        matches = {key: match[1] or "all" for key in keys if (match := re.fullmatch(pattern, key))}
        used |= set(matches)
        if matches:
            series = {_name(text): _series(history, key, factor) for key, text in matches.items()}
            known.append(Panel(title, series, kept_step if "dev/f1" in matches else None))
    return known, [Panel(key, {key: _series(history, key, 1)}) for key in keys if key not in used]


def _name(text: str) -> str:
    return METRIC_LABELS.get(text, text.replace("_", " "))


def _series(
    history: Sequence[dict[str, float]], key: str, factor: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rows = [(row["step"], factor * row[key]) for row in history if key in row]
    steps, values = zip(*rows, strict=True)
    return steps, values


def curve_svg(panel: Panel) -> str:
    return svg(lambda axes: _draw_curves(axes, panel), panel.title, PANEL_INCHES)


def curves_png(shown: Sequence[Panel]) -> str:
    """All panels, two in a row, as a data URI of a PNG on white."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    num_rows = (len(shown) + 1) // 2
    with rc_context({**STYLE, "grid.color": "#d5dae0", "axes.edgecolor": "#d5dae0"}):
        figure = Figure(
            figsize=(2 * PANEL_INCHES[0], num_rows * PANEL_INCHES[1]), layout="constrained", facecolor="white"
        )
        for i, panel in enumerate(shown, 1):
            axes = figure.add_subplot(num_rows, 2, i)
            _draw_curves(axes, panel)
            axes.set_title(panel.title, fontsize=10, loc="left", pad=18 if len(panel.series) > 1 else 6)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _draw_curves(axes: Axes, panel: Panel) -> None:
    for i, (name, (steps, values)) in enumerate(panel.series.items()):
        color, style = SERIES[i % len(SERIES)], STYLES[i % len(STYLES)]
        x, y = _thin(np.array(steps)), _thin(np.array(values))
        if (
            len(x) >= 20
        ):  # noisy, one value per step: their running mean, over the values themselves if it is the only curve
            if len(panel.series) == 1:
                axes.plot(x, y, color=color, linewidth=0.7, alpha=0.35)
            axes.plot(x, _running_mean(y, len(y) // 15), color=color, linestyle=style, linewidth=1.7, label=name)
        else:
            axes.plot(x, y, color=color, linestyle=style, linewidth=1.7, marker="o", markersize=3, label=name)
    if panel.kept_step is not None:
        axes.axvline(panel.kept_step, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(
            "kept", (panel.kept_step, 0), (3, 3), xycoords=("data", "axes fraction"), textcoords="offset points", size=9
        )
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_xlabel("step")
    axes.locator_params(axis="y", nbins=5)
    axes.locator_params(axis="x", nbins=6)
    if len(panel.series) > 1:
        axes.legend(
            frameon=False, fontsize=9, ncols=len(panel.series), loc="lower left", bbox_to_anchor=(0, 1), borderpad=0
        )


def _thin(values: np.ndarray) -> np.ndarray:
    """At most MAX_POINTS values, evenly spaced, the last one kept."""
    if len(values) <= MAX_POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, MAX_POINTS).round().astype(int)]


def _running_mean(values: np.ndarray, half_width: int) -> np.ndarray:
    """Mean over up to `half_width` values on either side; fewer at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    position = np.arange(len(values))
    low, high = np.maximum(position - half_width, 0), np.minimum(position + half_width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
