"""A table of ready-made cells, rendered as HTML (parts.html.j2), Markdown or plain text, and how numbers are written.

Scores are shown times 100 with one decimal, differences with their sign.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are ready-made strings, not yet escaped. The first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


# ---- numbers -----------------------------------------------------------------------------------------------------


def points(share: float | None) -> str:
    """0.782 → "78.2"; "–" where nothing was measured."""
    return "–" if share is None else f"{100 * share:.1f}"


def signed(share: float) -> str:
    """0.232 → "+23.2", -0.011 → "−1.1", 0 → "0.0". A second decimal where the first would read as zero."""
    if share == 0:
        return "0.0"
    digits = 1 if abs(share) >= 0.0005 else 2
    return f"{100 * share:+.{digits}f}".replace("-", "−")


def interval(low: float, high: float) -> str:
    """+2.9 to +4.1"""
    return f"{signed(low)} to {signed(high)}"


def change(delta: float, low: float, high: float) -> str:
    """+3.5 (+2.9 to +4.1), which a narrow table may break before the bracket and before the upper end."""
    return f"{signed(delta)} ({interval(low, high)})".replace(" to", "\u00a0to")


def p_value(p: float | None) -> str:
    """0.0124 → "0.012", 0.00003 → "<0.001"."""
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def number(value: float | None, digits: int = 2) -> str:
    """1.234 → "1.23", -0.5 → "−0.50"; "–" where nothing was measured."""
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """75 → "1 min 15 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


# ---- renderings ------------------------------------------------------------------------------------------------------


def plain(table: Table) -> str:
    """Columns aligned with spaces: the first to the left, the others to the right."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([text[0], "─" * len(text[0]), *text[1:]])


def markdown(table: Table) -> str:
    """A Markdown table with its caption above and its note below."""
    lines = [
        "| " + " | ".join(map(markdown_escape, table.columns)) + " |",
        "|" + "|".join([" :-- ", *[" --: "] * (len(table.columns) - 1)]) + "|",
        *("| " + " | ".join(map(markdown_escape, row)) + " |" for row in table.rows),
    ]
    note = ["", markdown_escape(table.note)] if table.note else []
    return "\n".join([f"**{markdown_escape(table.caption)}**", "", *lines, *note])


def markdown_escape(text: str) -> str:
    """One line that shows as it is: neither Markdown nor HTML in it has any effect."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
