"""What passages are worth to a reader: how much each raises the likelihood of its question's gold answer.

scored = score_passages([Shown(question, passages, gold)], reader, generator)
scored[0].scores   # nats per answer token, aligned with scored[0].passages
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jointrag.agents import Agent
from jointrag.likelihood import gold_answers, num_tokens
from jointrag.types import Episode, Passage, Question
from trainers.readers import Reader

logger = logging.getLogger(__name__)
_DIGITS = 5  # of a score; further ones change with the machine


@dataclass(frozen=True, slots=True)
class Shown:
    """A question with the passages to score."""

    question: Question
    passages: tuple[Passage, ...]
    gold: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """A question's passages and scores. No passages: its own text is too long for the reader."""

    query: str
    passages: tuple[str, ...]
    scores: tuple[float, ...]
    gold: tuple[bool, ...]
    too_long: int  # passages left out, because the reader cannot take them whole


def score_passages(block: Sequence[Shown], reader: Reader, generator: Agent) -> list[Scored]:
    """Per question, what each passage adds to the mean log-probability per token of the best gold answer. Passages that
    the reader cannot take whole are left out.

    Raises ValueError where the reader answers with something that is no number.
    """
    episodes = [Episode(shown.question) for shown in block]
    episodes += [Episode(shown.question, candidates=(passage,)) for shown in block for passage in shown.passages]
    gold = gold_answers(episodes, generator, reader.tokenizer)
    lengths = [num_tokens(turn) for turn in gold.turns]
    fits = [max(lengths[i] for i in places) <= reader.max_length for places in gold.asked]
    if not all(fits):
        gold = gold_answers([e for e, fit in zip(episodes, fits, strict=True) if fit], generator, reader.tokenizer)
    found = iter(gold.best(reader.logprobs(gold.turns)))
    likelihoods = [next(found) if fit else None for fit in fits]
    alone, read = likelihoods[: len(block)], iter(likelihoods[len(block) :])
    scored = []
    for shown, without in zip(block, alone, strict=True):
        rows = [
            (passage.contents, round(likelihood - without, _DIGITS), is_gold)
            for passage, is_gold, likelihood in zip(shown.passages, shown.gold, read, strict=False)  # `read` goes on
            if likelihood is not None and without is not None
        ]
        texts, gains, of_gold = zip(*rows, strict=True) if rows else ((), (), ())
        if not all(map(math.isfinite, gains)):
            raise ValueError(
                f"question {shown.question.id!r}: the reader's log-probabilities are no numbers; load it in another "
                "precision (reader.dtype=float32 or bfloat16)"
            )
        scored.append(Scored(shown.question.text, texts, gains, of_gold, len(shown.passages) - len(rows)))
    return scored


def report(rows: Iterable[Scored]) -> dict[str, float]:
    """preferences/questions and /passages written; /too_few: questions left out, with fewer than two passages that fit;
    /too_long: passages that do not; /spread: mean distance of a question's best and worst score; /gold_gain,
    /other_gain: mean scores; /gold_first: questions whose best passage is a gold one, of those that have one."""
    too_few = too_long = 0
    spreads: list[float] = []
    firsts: list[bool] = []
    gains: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        too_long += row.too_long
        if len(row.scores) < 2:
            too_few += 1
            continue
        spreads.append(max(row.scores) - min(row.scores))
        if any(row.gold):
            firsts.append(row.gold[row.scores.index(max(row.scores))])
        for gain, is_gold in zip(row.scores, row.gold, strict=True):
            gains[is_gold].append(gain)
    metrics = {
        "preferences/questions": float(len(spreads)),
        "preferences/passages": float(sum(map(len, gains.values()))),
        "preferences/too_few": float(too_few),
        "preferences/too_long": float(too_long),
        "preferences/spread": _mean(spreads),
        "preferences/other_gain": _mean(gains[False]),
    }
    if firsts:
        metrics |= {"preferences/gold_gain": _mean(gains[True]), "preferences/gold_first": _mean(firsts)}
        if gains[False] and _mean(gains[True]) <= _mean(gains[False]):
            logger.warning(
                "gold passages help the reader no more (%.3f) than others (%.3f): it cannot read yet, or answers from "
                "memory; what a retriever would learn from it is not to find them",
                _mean(gains[True]),
                _mean(gains[False]),
            )
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
