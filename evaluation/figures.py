"""The report's figures: learning curves and intervals, drawn with matplotlib.

Each panel becomes an inline SVG whose colours are the page's own CSS variables, so that it follows light and dark mode;
the Markdown report gets all panels in one PNG on white.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.scores import Comparison
from evaluation.tables import METRIC_LABELS, interval, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#010203", "#040506"  # stand-ins that the SVG swaps for CSS variables
SERIES = ("#0b5fce", "#c2410c", "#15803d", "#7e22ce")
STYLES = ("-", "--", ":", "-.")  # told apart without colour, too
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


# ---- drawing ---------------------------------------------------------------------------------------------------------


def curve_svg(panel: Panel) -> str:
    return _svg(lambda axes: _draw_curves(axes, panel), panel.title, PANEL_INCHES)


def interval_svg(comparisons: Sequence[tuple[str, Comparison]]) -> str:
    """Differences as dots with their intervals, one row each (label, comparison)."""
    return _svg(lambda axes: _draw_intervals(axes, comparisons), "intervals", (4.6, 0.7 + 0.34 * len(comparisons)))


def interval_alt(comparisons: Sequence[tuple[str, Comparison]]) -> str:
    rows = [f"{name}: {signed(c.delta)} ({interval(c)})" for name, c in comparisons]
    return f"Differences in F1 with 95 % intervals. {'; '.join(rows)}."


def curves_png(shown: Sequence[Panel]) -> str:
    """All panels, two in a row, as a data URI of a PNG on white."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    num_rows = (len(shown) + 1) // 2
    with rc_context({**_STYLE, "grid.color": "#d5dae0", "axes.edgecolor": "#d5dae0"}):
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


_STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
}


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


def _draw_intervals(axes: Axes, comparisons: Sequence[tuple[str, Comparison]]) -> None:
    for row, (_, c) in enumerate(comparisons):
        color = SERIES[2] if c.low > 0 else SERIES[1] if c.high < 0 else INK
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


def _svg(draw: Callable[[Axes], None], salt: str, inches: tuple[float, float]) -> str:
    """An <svg> element for use inside a page: no addresses, no ids but its own clip paths, colours from CSS."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=inches, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Creator": None, "Date": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<svg[^>]*(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1)
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL
    )  # it would style the page
    text = re.sub(r'<g id="[^"]*"\s*/>', "", text).replace("xlink:href", "href")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*; ", "", text)
    text = re.sub(r"\s*\n\s*", " ", text)
    colors = {INK: "var(--ink)", GRID: "var(--line)"} | {c: f"var(--series-{i})" for i, c in enumerate(SERIES, 1)}
    for color, variable in colors.items():
        text = text.replace(color, variable)
    return text.replace("<svg", '<svg aria-hidden="true" focusable="false" stroke-linejoin="round"', 1)
