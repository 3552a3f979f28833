"""The content of ablation.json: an ablation's rows, their trainings, their differences to the full system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Training(_Data):
    """One training of one row: scores on the held-out questions, 0..1."""

    seed: int
    warm_start_f1: float
    f1: float
    em: float
    accuracy: float
    seconds: float
    """To answer all questions."""


class Row(_Data):
    """One row. Means over its seeds; spreads are standard deviations over seeds, None for a single one."""

    name: str
    settings: dict[str, Any]
    """What it changes in the preset."""
    trainings: tuple[Training, ...]
    warm_start_f1: float
    f1: float
    f1_spread: float | None
    em: float
    accuracy: float
    delta: float | None
    """Its F1 minus the full system's; None in the full system's own row."""
    delta_spread: float | None
    low: float | None
    high: float | None
    """The ends of the 95 % interval of `delta`."""


class Result(_Data):
    """The content of ablation.json."""

    name: str
    about: str
    seeds: tuple[int, ...]
    num_questions: int
    """Held-out questions per seed."""
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: Path) -> Result:
        return cls.model_validate_json(path.read_bytes())
