"""Questions kept out of training, on which a reranker or a late-interaction model is measured before, during and after.

    train, held = held_out(records, config.held_out, seed=0)         # by question
    held.measure(model)                                              # {"ndcg@10": …, "mrr@10": …, "map": …}

The texts that a question has in its file are put into the model's order. Where there are few, random texts of other
questions join them, so that there is something to tell apart.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.judged import Judged
from evaluation.rankings import rank
from evaluation.retrieval import measure
from trainers.negatives import FILE
from trainers.retrieval.records import Records

logger = logging.getLogger(__name__)
RECORDS = ".records"  # beside the folder that is written: what open_records keeps there serves the next training, too
METRICS = ("ndcg@10", "mrr@10", "map")  # the first one says which model is best
_QUESTIONS = 1_000  # a check while training, not a result
_CANDIDATES = 10


@dataclass(frozen=True)
class HeldOut:
    """Positions in judged.corpus to put in order, for each of judged.queries."""

    judged: Judged
    candidates: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, records: Records, *, relevant_from: float | None = None, seed: int = 0) -> HeldOut:
        """The first 1,000 records. Raises ValueError where scores do not say which texts are relevant."""
        if len(records) > _QUESTIONS:
            logger.info("evaluating on the first %s of %s records held out", f"{_QUESTIONS:,}", f"{len(records):,}")
        judged = Judged.of(records[:_QUESTIONS], relevant_from=relevant_from, seed=seed)
        rng = random.Random(seed)
        return cls(judged, tuple(_filled_up(row, len(judged.corpus), rng) for row in judged.candidates))

    def measure(self, model: Any) -> dict[str, float]:
        """METRICS of the model's rankings, means over questions."""
        judged = self.judged
        rankings = rank(model, judged.queries, judged.corpus, self.candidates)
        return measure(rankings, judged.gold, METRICS).means()


def held_out(
    records: Records, share: float, *, seed: int, dev: Records | None = None, relevant_from: float | None = None
) -> tuple[Records, HeldOut | None]:
    """(What to train on, what to evaluate on): `dev`, or else `share` of the questions; None where that is 0."""
    if dev is None and share:
        records, dev = records.split(share, seed)
    if dev is None:
        return records, None
    try:
        return records, HeldOut.of(dev, relevant_from=relevant_from, seed=seed)
    except ValueError as error:
        raise ValueError(f"{dev.where(0)} and others to evaluate on: {error}") from None


def training_file(kind: str, data: Path | None, negatives: Path | None) -> Path:
    """What a model of this kind learns from: a file of the user's, or what the stage mined. Raises ValueError."""
    if data is not None:
        return data
    if negatives is None:
        raise ValueError(f"there is nothing to train the {kind} on: set {kind}.data to a training file")
    return negatives / FILE


def _filled_up(candidates: Sequence[int], corpus_size: int, rng: random.Random) -> tuple[int, ...]:
    missing = min(_CANDIDATES, corpus_size) - len(candidates)
    if missing <= 0:
        return tuple(candidates)
    own = set(candidates)
    others = [text for text in rng.sample(range(corpus_size), missing + len(own)) if text not in own]
    return tuple(rng.sample([*candidates, *others[:missing]], len(candidates) + missing))
