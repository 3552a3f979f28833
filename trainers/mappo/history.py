"""What a step leaves for people: a line in history.jsonl, metrics in the tracker, now and then a line in the log."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from jointrag.jsonl import write_jsonl
from jointrag.tracking import Tracker
from trainers.mappo.checkpoints import Progress

logger = logging.getLogger(__name__)
SAY_EVERY_S = 5.0


class History:
    """`progress`: what is done; lines beyond it are dropped, for these steps will be done again."""

    def __init__(self, path: Path, progress: Progress, num_steps: int, tracker: Tracker, writes: bool) -> None:
        self.last: dict[str, Any] = {}
        self._path, self._num_steps, self._tracker, self._writes = path, num_steps, tracker, writes
        self._said = time.monotonic()
        if writes and path.exists():
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            write_jsonl(path, [line for line in lines if line["step"] <= progress.step] if progress.step else [])

    def record(self, metrics: dict[str, float], progress: Progress, said: str = "") -> None:
        """The metrics of a step; numbers that are not finite leave a gap. `said`: the watchdog's words."""
        numbers = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self.last = {"step": progress.step, **numbers} | ({"watchdog": said} if said else {})
        if not self._writes:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.last) + "\n")
        self._tracker.log_metrics(numbers, progress.step)
        if said:
            logger.warning("MAPPO step %d: %s", progress.step, said)
            self._tracker.log_text(said, f"watchdog/step-{progress.step:06d}.txt")
        if progress.step and (
            time.monotonic() - self._said >= SAY_EVERY_S or progress.step == self._num_steps or progress.ended
        ):
            self._said = time.monotonic()
            self._say(progress)

    def _say(self, progress: Progress) -> None:
        last = self.last
        dev = f" · dev F1 {last['dev/f1']:.3f}" if "dev/f1" in last else ""
        logger.info(
            "MAPPO step %d/%d · reward %.3f%s · KL %.3f · %.0f episodes/s · %d s left",
            progress.step,
            self._num_steps,
            last["mappo/reward"],
            dev,
            last.get("mappo/kl", math.nan),
            last["time/episodes_per_s"],
            progress.train_seconds / progress.step * (self._num_steps - progress.step),
        )
