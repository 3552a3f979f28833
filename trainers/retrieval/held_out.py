"""What training rerankers and late-interaction models have in common: questions are kept out of it, on which the model
is measured before, during and after.

    records, held = open_split(config, "reranker", data, None, None, seed=0, out=out)
    metrics = fit_and_measure(learner, groups, held, name="reranker", …)      # reranker/ndcg@10, reranker/start_ndcg@10

The texts that a question has in its file are put into the model's order. Where there are few, random texts of other
questions join them, so that there is something to tell apart.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.judged import Judged
from evaluation.rankings import rank
from evaluation.retrieval import measure
from jointrag.config import LateInteractionConfig, RerankerConfig
from jointrag.tracking import Tracker
from trainers.negatives import FILE
from trainers.retrieval.records import Need, Records, open_records

if TYPE_CHECKING:
    from trainers.retrieval.groups import BatchesByLength, BatchesWithoutDuplicates, Group, Groups
    from trainers.retrieval.learner import Learner

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


def open_split(
    config: RerankerConfig | LateInteractionConfig,
    name: str,
    data: Path | Sequence[Path] | None,
    dev: Path | None,
    negatives: Path | None,
    *,
    seed: int,
    out: Path,
    needs: frozenset[Need] = frozenset(),
) -> tuple[Records, HeldOut | None]:
    """(What to train on, what to evaluate on). The latter is the file `dev` or config.dev, or else a share of the
    questions of the former; None where that is 0.

    Raises ValueError where there is no training file, and for one that is not right.
    """
    data = data or config.data or (negatives and negatives / FILE)
    if not data:
        raise ValueError(f"there is nothing to train the {name} on: set {name}.data to a training file")
    cache = out.parent / RECORDS
    records = open_records(data, cache=cache, needs=needs)
    dev = dev or config.dev
    judged = None if dev is None else open_records(dev, cache=cache)
    if judged is None and config.held_out:
        records, judged = records.split(config.held_out, seed)
    if judged is None:
        return records, None
    try:
        return records, HeldOut.of(judged, relevant_from=config.relevant_from, seed=seed)
    except ValueError as error:
        raise ValueError(f"{judged.where(0)} and others to evaluate on: {error}") from None


def fit_and_measure(
    learner: Learner[Group],
    groups: Groups,
    held: HeldOut | None,
    *,
    name: str,
    model_name: str,
    seed: int,
    out: Path,
    tracker: Tracker,
    order: type[BatchesByLength] | type[BatchesWithoutDuplicates],
) -> dict[str, float]:
    """Measure, train, measure; writes out/model. Returns `name`/loss, METRICS, and these before training as start_…"""
    from trainers.parallel import Team
    from trainers.retrieval.backbone import autocast, prepare
    from trainers.retrieval.fit import fit

    model, settings = learner.model, learner.settings
    team = Team.join(model.device.type)

    def evaluate() -> dict[str, float]:
        with autocast(settings, model.device.type):
            return {} if held is None else held.measure(model)

    before = team.gather([evaluate()] if team.is_first else [])[0]
    prepare(model, settings, model_name)
    result = fit(
        learner,
        groups,
        settings,
        seed=seed,
        out=out,
        tracker=tracker,
        evaluate=None if held is None else evaluate,
        name=name,
        order=order,
    )
    metrics = {"loss": result.loss} | {f"start_{metric}": value for metric, value in before.items()} | result.metrics
    return {f"{name}/{metric}": value for metric, value in metrics.items()}


def _filled_up(candidates: Sequence[int], corpus_size: int, rng: random.Random) -> tuple[int, ...]:
    missing = min(_CANDIDATES, corpus_size) - len(candidates)
    if missing <= 0:
        return tuple(candidates)
    own = set(candidates)
    others = [text for text in rng.sample(range(corpus_size), missing + len(own)) if text not in own]
    return tuple(rng.sample([*candidates, *others[:missing]], len(candidates) + missing))
