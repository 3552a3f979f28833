"""How good rankings are: recall, hit rate, MRR, MAP and nDCG at k, per question; and whether two systems differ.

    before = measure([["p3", "p1"], …], [{"p1"}, …], ["recall@2", "mrr@10", "ndcg@10", "map"])
    before.means()                                     # {"recall@2": 1.0, …}
    print(markdown(comparison_table({"before": before, "after": after})))

A metric is a name, `recall@10`, or `map` for the whole ranking. With g_i the gain of the document at rank i (0 where
the gold does not name it), R the number of documents whose gain is above 0, and "found" meaning g_i > 0:

    recall@k   found among the first k / R
    hit@k      1 if any of the first k is found
    mrr@k      1 / rank of the first one found, 0 if that is beyond k
    map@k      sum over the found of the first k of (found up to there / rank), divided by R, not by min(R, k)
    ndcg@k     sum of g_i / log2(i + 1) over the first k, divided by that of the best order there could be

These are trec_eval's recall.k, success.k, recip_rank (there without k), map_cut.k and ndcg_cut.k, so that the gain of a
grade is the grade itself, not 2^grade - 1. Two departures: a ranking is a list, so whoever makes it has settled ties
(trec_eval settles them by the documents' names; see evaluation.rankings); and a question without any relevant
document is an error, where trec_eval scores it 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.significance import Difference, paired_bootstrap
from evaluation.tables import Table, points, signed

Id = Hashable
Gold = Mapping[Id, float] | Collection[Id]  # gains, or the relevant documents, each with a gain of 1
Floats = NDArray[np.float64]

DEFAULT_METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10", "map@10")
_QUESTIONS_AT_ONCE = 10_000  # 8 MB for each of a few arrays, where rankings have 100 documents


@dataclass(frozen=True, slots=True)
class Scores:
    """One system's score for every question, 0 to 1: `of["recall@5"]` is [questions]."""

    of: Mapping[str, Floats]
    ids: tuple[str, ...] = ()  # the questions', where known: two systems are compared on the same ones only

    @property
    def num_questions(self) -> int:
        return len(next(iter(self.of.values())))

    def means(self) -> dict[str, float]:
        return {metric: float(values.mean()) for metric, values in self.of.items()}


def measure(
    rankings: Sequence[Sequence[Id]],
    gold: Sequence[Gold],
    metrics: Sequence[str] = DEFAULT_METRICS,
    ids: Sequence[str] = (),
) -> Scores:
    """Score `rankings` [questions], each a list of document ids, best first, of any length (none is a score of 0).

    `gold` [questions] names the relevant documents, or gives gains; a gain of 0 or less says that the document was
    judged and is not relevant. Gold documents that a ranking lacks were not found; documents that the gold lacks are
    not relevant. Raises ValueError for no questions, lists of different lengths, a question without a relevant
    document, a gain that is not a number, a document that stands twice in a ranking, an unknown metric.
    """
    if len(rankings) == 0 or not metrics:
        raise ValueError("nothing to measure: give at least one question and one metric")
    if len(rankings) != len(gold) or (ids and len(ids) != len(gold)):
        raise ValueError(f"{len(rankings):,} rankings, {len(gold):,} gold judgements and {len(ids):,} ids: not aligned")
    cutoffs = {metric: _parse(metric) for metric in metrics}
    parts: dict[str, list[Floats]] = {metric: [] for metric in cutoffs}
    for block in _blocks(rankings, gold, max(k for _, k in cutoffs.values()), ids):
        for metric, (name, k) in cutoffs.items():
            parts[metric].append(_METRICS[name](block.cut(k)))
    return Scores({metric: np.concatenate(values) for metric, values in parts.items()}, tuple(ids))


def compare(
    system: Scores, baseline: Scores, *, num_resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> dict[str, Difference]:
    """`system` minus `baseline` on the same questions, for each metric that both have, with its bootstrap interval."""
    if system.num_questions != baseline.num_questions or (system.ids and baseline.ids and system.ids != baseline.ids):
        raise ValueError("the two systems were not measured on the same questions in the same order")
    return {
        # a generator of its own each time: a number does not depend on what else is compared
        metric: paired_bootstrap(values - baseline.of[metric], np.random.default_rng(seed), num_resamples, level)
        for metric, values in system.of.items()
        if metric in baseline.of
    }


def comparison_table(
    systems: Mapping[str, Scores], baseline: str | None = None, *, num_resamples: int = 10_000, seed: int = 0
) -> Table:
    """Systems × metrics in percent, each other system with its difference to `baseline` (the first) and the interval.

    Render it with `evaluation.tables.markdown` or `plain`. Raises ValueError for systems of different questions.
    """
    baseline = next(iter(systems)) if baseline is None else baseline
    if baseline not in systems:
        raise ValueError(f"no system {baseline!r} to compare with; there are {', '.join(systems)}")
    metrics = tuple(dict.fromkeys(metric for scores in systems.values() for metric in scores.of))
    rows = []
    for name, scores in systems.items():
        means = scores.means()
        against = {} if name == baseline else compare(scores, systems[baseline], num_resamples=num_resamples, seed=seed)
        rows.append((name, *(_cell(means.get(metric), against.get(metric)) for metric in metrics)))
    return Table(
        f"Retrieval on {systems[baseline].num_questions:,} questions, in percent",
        ("system", *metrics),
        tuple(rows),
        f"In brackets: the difference to {baseline} and its 95 % interval (paired bootstrap over questions). "
        "An interval that contains 0 means: no measurable difference."
        if len(systems) > 1
        else "",
    )


def _cell(mean: float | None, difference: Difference | None) -> str:
    if difference is None:
        return points(mean)
    return f"{points(mean)} ({signed(difference.delta)}: {signed(difference.low)} to {signed(difference.high)})"


# ---- the metrics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Block:
    """Some questions: gains in the order of the ranking, in the best order, and how many documents are relevant."""

    gains: Floats  # [questions, depth], 0 where the ranking is shorter
    ideal: Floats  # [questions, depth], descending
    num_relevant: Floats  # [questions]

    def cut(self, k: float) -> _Block:
        depth = self.gains.shape[1] if math.isinf(k) else int(k)
        return _Block(self.gains[:, :depth], self.ideal[:, :depth], self.num_relevant)

    @property
    def ranks(self) -> Floats:
        return np.arange(1, self.gains.shape[1] + 1, dtype=np.float64)


def _recall(block: _Block) -> Floats:
    return (block.gains > 0).sum(axis=1) / block.num_relevant


def _hit(block: _Block) -> Floats:
    return np.where((block.gains > 0).any(axis=1), 1.0, 0.0)


def _mrr(block: _Block) -> Floats:
    found = block.gains > 0
    return found.any(axis=1) / (found.argmax(axis=1) + 1)


def _map(block: _Block) -> Floats:
    found = block.gains > 0
    return (found * found.cumsum(axis=1) / block.ranks).sum(axis=1) / block.num_relevant


def _ndcg(block: _Block) -> Floats:
    discounts = 1 / np.log2(block.ranks + 1)
    return (block.gains * discounts).sum(axis=1) / (block.ideal * discounts).sum(axis=1)


_METRICS = {"recall": _recall, "hit": _hit, "mrr": _mrr, "map": _map, "ndcg": _ndcg}


def _parse(metric: str) -> tuple[str, float]:
    """ "recall@10" → ("recall", 10), "map" → ("map", inf)."""
    name, at, k = metric.partition("@")
    if name not in _METRICS or (at and not (k.isascii() and k.isdigit() and int(k) > 0)):
        raise ValueError(f"no metric {metric!r}; write one of {', '.join(_METRICS)}, alone or with a cut-off like @10")
    return name, int(k) if at else math.inf


def _blocks(
    rankings: Sequence[Sequence[Id]], gold: Sequence[Gold], deepest: float, ids: Sequence[str]
) -> Iterator[_Block]:
    for start in range(0, len(rankings), _QUESTIONS_AT_ONCE):
        rows, judged = rankings[start : start + _QUESTIONS_AT_ONCE], gold[start : start + _QUESTIONS_AT_ONCE]
        depth = int(min(deepest, max(1, *map(len, rows), *map(len, judged))))
        gains, ideal = np.zeros((len(rows), depth)), np.zeros((len(rows), depth))
        num_relevant = np.zeros(len(rows))
        for i, (row, want) in enumerate(zip(rows, judged, strict=True)):
            try:
                positive = _positive(want)
                found = _gains(row[:depth], positive)
            except ValueError as error:
                raise ValueError(f"question {ids[start + i] if ids else start + i!r}: {error}") from None
            gains[i, : len(found)] = found
            best = sorted(positive.values(), reverse=True)[:depth]
            ideal[i, : len(best)] = best
            num_relevant[i] = len(positive)
        yield _Block(gains, ideal, num_relevant)


def _positive(gold: Gold) -> dict[Id, float]:
    """The relevant documents with their gains."""
    gains = gold if isinstance(gold, Mapping) else dict.fromkeys(gold, 1.0)
    if any(math.isnan(gain) or math.isinf(gain) for gain in gains.values()):
        raise ValueError("a gain is not a finite number")
    positive = {document: gain for document, gain in gains.items() if gain > 0}
    if not positive:
        raise ValueError("no document is relevant, so nothing can be found; leave the question out")
    return positive


def _gains(ranking: Sequence[Id], positive: Mapping[Id, float]) -> list[float]:
    seen = set(ranking)
    if len(seen) < len(ranking):
        twice = next(document for i, document in enumerate(ranking) if document in ranking[:i])
        raise ValueError(f"document {twice!r} stands twice in the ranking; name each document once")
    return [positive.get(document, 0.0) for document in ranking]
