"""What mining negatives found, and why not more."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Reason = Literal["rank", "score", "answer"]
WHY: dict[Reason, str] = {
    "rank": "ranked before first_rank",
    "score": "scored too near the positive",
    "answer": "held a gold answer",
}


@dataclass
class Tally:
    """What was found, and why not more."""

    asked: int  # negatives per question
    questions: int = 0
    short: int = 0  # with fewer negatives than asked, those with none included
    none: int = 0  # without any
    dropped: int = 0
    negatives: int = 0
    ranks: int = 0  # summed over all negatives
    removed: Counter[Reason] = field(default_factory=Counter)  # candidates
    short_for: Counter[str] = field(default_factory=Counter)  # short questions, by what removed most candidates
    titled_positives: int = 0  # passages that equal a positive with their title, without it
    bare_positives: int = 0

    def __str__(self) -> str:
        kept = self.questions - self.dropped
        text = f"{self.negatives:,} negatives for {kept:,} of {self.questions:,} questions"
        if self.short:
            reasons = ", ".join(f"{count:,} because {reason}" for reason, count in self.short_for.most_common())
            text += f" · {self.short:,} have fewer than {self.asked} ({reasons}), {self.dropped:,} of them dropped"
        if self.removed:
            text += " · left out: " + ", ".join(f"{n:,} that {WHY[why]}" for why, n in self.removed.most_common())
        return text

    def metrics(self) -> dict[str, float]:
        """negatives/questions, /mined, /short, /dropped, /mean_rank, and /left_out_… by reason."""
        counts = {"questions": self.questions, "mined": self.negatives, "short": self.short, "dropped": self.dropped}
        counts |= {f"left_out_{reason}": self.removed[reason] for reason in WHY}
        return {f"negatives/{name}": float(count) for name, count in counts.items()} | {
            "negatives/mean_rank": self.ranks / max(1, self.negatives)
        }
