"""What MAPPO wrote down as it trained: history.jsonl, a line of numbers per step, some with words of the watchdog."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.tables import points


@dataclass(frozen=True, slots=True)
class History:
    """Per step its numbers, those that are not finite left out, and what the watchdog said: (step, text)."""

    steps: tuple[dict[str, float], ...]
    warnings: tuple[tuple[int, str], ...] = ()

    @property
    def num_steps(self) -> int:
        return int(max((step["step"] for step in self.steps), default=0))


def read_history(path: Path) -> History:
    """Raises ValueError naming the line that is not a step."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; train mappo first")
    steps, warnings = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            numbers = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and math.isfinite(v)}
            steps.append({"step": float(row["step"]), **numbers})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: not a training step ({error!r}); train mappo again") from None
        if row.get("watchdog"):
            warnings.append((int(row["step"]), str(row["watchdog"])))
    return History(tuple(steps), tuple(warnings))


def kept_step(stages: Sequence[dict[str, Any]]) -> int | None:
    """The step whose weights later stages got; None where the records do not say."""
    step = _metrics(stages).get("mappo/kept_step")
    return None if step is None else int(step)


def kept_sentence(stages: Sequence[dict[str, Any]], history: History) -> str:
    """Which weights were kept, and why, where they are not the last step's; else ""."""
    step, best = kept_step(stages), _metrics(stages).get("mappo/kept_dev_f1")
    if step is None or step >= history.num_steps:
        return ""
    found = f" (F1 {points(best)})" if best is not None else ""
    if step == 0:
        return f"The warm start's weights were kept{found}: every step answered the dev questions worse."
    return (
        f"The weights of step {step} of {history.num_steps} were kept{found}: "
        "later ones answered the dev questions clearly worse."
    )


def _metrics(stages: Sequence[dict[str, Any]]) -> dict[str, float]:
    """MAPPO's final metrics."""
    return next((stage.get("metrics") or {} for stage in stages if stage["stage"] == "mappo"), {})
