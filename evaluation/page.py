"""Self-contained HTML pages from the templates beside this file: render("report.html.j2", headline=…)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.tables import points

MAX_CHARACTERS = 280  # of a passage in the examples


def render(template: str, **values: Any) -> str:
    """The filled-in page. Every value is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": points, "shorten": shorten, "whole": _whole}
    return environment.get_template(template).render(**values)


def shorten(text: str) -> str:
    """One line of at most MAX_CHARACTERS."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else line[: MAX_CHARACTERS - 1].rstrip() + "…"


def _whole(text: str) -> str:
    """A number and its percent sign stay on one line."""
    return text.replace(" %", "\u00a0%")
