"""Where metrics go: MLflow, or nothing. The only file that imports mlflow.

Stages take a `tracker: Tracker` and never ask which one it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """What a stage may record. Metric names carry a slash: `mappo/kl`."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None: ...

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file or a whole folder with the run."""
        ...

    def log_table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Keep rows as a table; `name` without an extension."""
        ...

    def log_text(self, text: str, name: str) -> None:
        """Keep a text; `name` is a file name."""
        ...


class NoTracker:
    """Records nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        pass

    def log_artifact(self, path: Path, folder: str = "") -> None:
        pass

    def log_table(self, rows: list[dict[str, Any]], name: str) -> None:
        pass

    def log_text(self, text: str, name: str) -> None:
        pass
