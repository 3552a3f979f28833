"""The report's tables about the run: what every stage took, and the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.tables import Table, duration, points


def stage_times(stages: Sequence[dict[str, Any]]) -> Table:
    """Time and disk of every stage; of one that was reused, what it took when it was made."""
    rows = []
    for stage in stages:
        took = duration(float(stage["seconds"]))
        size = f"{stage['bytes'] / 1e6:,.1f} MB" if "bytes" in stage else "–"
        now, then = ("reused", took) if stage.get("cached") else (took, "")
        rows.append((str(stage["stage"]).replace("_", " "), now, then, size))
    total = sum(float(stage["seconds"]) for stage in stages if not stage.get("cached"))
    reused = sum(float(stage["seconds"]) for stage in stages if stage.get("cached"))
    size = sum(stage.get("bytes", 0) for stage in stages)
    rows.append(("total", duration(total), duration(reused) if reused else "", f"{size / 1e6:,.1f} MB"))
    return Table(
        "Time and disk per stage",
        ("stage", "in this run", "earlier", "output"),
        tuple(rows),
        "Reused: an earlier run's result with the same inputs, and what that took then.",
    )


def search_index(stages: Sequence[dict[str, Any]]) -> Table | None:
    """How large the index is, and how much of what exact search finds it finds."""
    metrics = next((stage["metrics"] for stage in stages if stage["stage"] == "index"), None)
    if metrics is None:
        return None
    rows = [("passages", f"{metrics['index/passages']:,.0f}"), ("on disk", f"{metrics['index/bytes'] / 1e6:,.1f} MB")]
    if "index/recall@10" in metrics:
        rows.append(("recall@10 against exact search", points(metrics["index/recall@10"])))
    return Table(
        "The index", ("", "value"), tuple(rows), "Recall: of the 10 passages nearest to a query, those that it finds."
    )
