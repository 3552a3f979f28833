"""What a reranker learns from: losses on the logits of texts that belong to queries.

    grouped = group(logits, labels, sizes)      # flat [pairs] -> [queries, texts], with a mask
    loss = LOSSES["listwise"](grouped)

All are pure and work on groups of different sizes. Formulas and averages are those of sentence-transformers'
cross-encoder losses, whose classes tokenise and run the model themselves and so cannot be used on logits. Departures:
natural logarithms everywhere, and KL in place of ListNet's cross-entropy (the same gradients, but 0 for a perfect fit,
so that the value says how far there is to go).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Grouped:
    """Logits and labels [queries, texts]; `mask` is False where a query has no more texts (logit and label are 0)."""

    logits: Tensor
    labels: Tensor
    mask: Tensor

    def per_text(self) -> tuple[Tensor, Tensor]:
        """(logits, labels) of the texts there are, [pairs]."""
        return self.logits[self.mask], self.labels[self.mask]


def group(logits: Tensor, labels: Tensor, sizes: Tensor) -> Grouped:
    """Flat [pairs], query after query, as one row per query; `sizes` [queries] says how many texts each has."""
    assert len(logits) == len(labels) == int(sizes.sum())
    mask = torch.arange(int(sizes.max()), device=logits.device) < sizes[:, None]
    rows = torch.zeros(mask.shape, device=logits.device)
    return Grouped(rows.masked_scatter(mask, logits.float()), rows.masked_scatter(mask, labels.float()), mask)


def point_ce(grouped: Grouped) -> Tensor:
    """Binary cross-entropy of every text by itself; labels are probabilities. Mean over texts."""
    logits, labels = grouped.per_text()
    return functional.binary_cross_entropy_with_logits(logits, labels)


def point_mse(grouped: Grouped) -> Tensor:
    """Squared difference of sigmoid(logit) and label, every text by itself. Mean over texts."""
    logits, labels = grouped.per_text()
    return functional.mse_loss(torch.sigmoid(logits), labels)


def pairwise(grouped: Grouped) -> Tensor:
    """RankNet (Burges et al. 2005): -log sigmoid(s_better - s_worse), mean over all pairs of one query's texts whose
    labels differ."""
    return _mean_over_pairs(grouped, torch.ones_like(grouped.logits)[:, :, None])


def lambda_ndcg(grouped: Grouped, mu: float = 10.0) -> Tensor:
    """LambdaLoss with the weights NDCG-Loss2++ (Wang et al. 2018): RankNet, each pair weighted by what nDCG would lose
    if the two changed places, at their present ranks and, `mu` times as much, at the top. Labels are grades from 0."""
    order = grouped.logits.masked_fill(~grouped.mask, -torch.inf).argsort(descending=True, stable=True)
    ranks = torch.argsort(order) + 1  # [queries, texts]
    ideal = grouped.labels.sort(descending=True).values
    positions = torch.arange(1, ideal.shape[1] + 1, device=ideal.device)
    best = ((2**ideal - 1) * _discount(positions)).sum(1, keepdim=True)
    gains = (2**grouped.labels - 1) / best.clamp(min=1e-10)
    apart = (ranks[:, :, None] - ranks[:, None, :]).abs()
    at_their_ranks = (_discount(ranks)[:, :, None] - _discount(ranks)[:, None, :]).abs()
    at_the_top = (_discount(apart.clamp(min=1)) - _discount(apart + 1)).abs()
    weights = (mu * at_the_top + at_their_ranks) * (gains[:, :, None] - gains[:, None, :]).abs()
    return _mean_over_pairs(grouped, weights)


def listwise(grouped: Grouped) -> Tensor:
    """Softmax cross-entropy over a query's texts, against labels divided by their sum (one positive: its negative
    log-probability). Mean over queries; one without a positive label has nothing to teach and counts as 0."""
    targets = grouped.labels / grouped.labels.sum(1, keepdim=True).clamp(min=1e-10)
    return -(targets * _log_softmax(grouped.logits, grouped.mask)).sum(1).mean()


def kl(grouped: Grouped, temperature: float = 1.0) -> Tensor:
    """KL(softmax(labels / temperature) || softmax(logits)) over a query's texts: ListNet (Cao et al. 2007) for graded
    labels, distillation for a teacher's scores. Mean over queries."""
    teacher = _log_softmax(grouped.labels / temperature, grouped.mask)
    student = _log_softmax(grouped.logits, grouped.mask)
    return (teacher.exp() * (teacher - student)).sum(1).mean()


def margin_mse(grouped: Grouped) -> Tensor:
    """Squared difference between the model's and the labels' margin of a query's first text over each other one
    (Hofstätter et al. 2020); labels are a teacher's logits. Mean over the other texts of all queries."""
    others = grouped.mask[:, 1:]
    margins = grouped.logits[:, :1] - grouped.logits[:, 1:]
    wanted = grouped.labels[:, :1] - grouped.labels[:, 1:]
    return torch.where(others, (margins - wanted) ** 2, 0.0).sum() / others.sum().clamp(min=1)


LOSSES: dict[str, Callable[[Grouped], Tensor]] = {
    "point_ce": point_ce,
    "point_mse": point_mse,
    "pairwise": pairwise,
    "listwise": listwise,
    "lambda": lambda_ndcg,
    "kl": kl,
    "margin_mse": margin_mse,
}


def _log_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Over the texts there are; 0 at the others, which a target of 0 then leaves out of any sum."""
    filled = scores.masked_fill(~mask, -torch.inf)
    return torch.where(mask, functional.log_softmax(filled, dim=1), 0.0)


def _mean_over_pairs(grouped: Grouped, weights: Tensor) -> Tensor:
    """Mean of weight x -log sigmoid(s_i - s_j) over all pairs with label_i > label_j; 0 when there is none."""
    ordered = (grouped.labels[:, :, None] > grouped.labels[:, None, :]) & grouped.mask[:, :, None]
    ordered &= grouped.mask[:, None, :]
    margins = grouped.logits[:, :, None] - grouped.logits[:, None, :]
    losses = -weights * functional.logsigmoid(margins)
    return torch.where(ordered, losses, 0.0).sum() / ordered.sum().clamp(min=1)


def _discount(rank: Tensor) -> Tensor:
    """DCG's weight of a rank, from 1."""
    return 1 / torch.log2(1.0 + rank)
