"""How a figure gets into a page: drawn with matplotlib, as an inline SVG with the page's own CSS variables for colours.

So it follows light and dark mode. `INK` and `GRID` are stand-ins for the page's text and line colours.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID = "#010203", "#040506"  # stand-ins that the SVG swaps for CSS variables
SERIES = ("#0b5fce", "#c2410c", "#15803d", "#7e22ce")
STYLES = ("-", "--", ":", "-.")  # told apart without colour, too

STYLE: dict[Any, Any] = {
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
    "text.parse_math": False,  # a dollar in the data is a dollar
}


def svg(draw: Callable[[Axes], None], salt: str, inches: tuple[float, float]) -> str:
    """An <svg> element for use inside a page: no addresses, no ids but its own clip paths, colours from CSS."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=inches, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        file = io.StringIO()
        with warnings.catch_warnings():
            # texts stay texts in SVG: whoever reads it has the fonts
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
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
