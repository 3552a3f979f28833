"""Losses of embedding models, on tensors. Vectors need not be of unit length: similarity is the cosine everywhere.

    loss = in_batch_softmax(queries, texts, positive, temperature=0.02, masked=same_text(...) | guided(...))
    loss = matryoshka(lambda q, t: in_batch_softmax(q, t, positive, temperature=0.02), (64, 384), queries, texts)

Shapes: n queries, m texts (positives and negatives of all queries of the batch), d dimensions. Each returns a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, normalize, relu


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Similarities [n, m] of [n, d] and [m, d], in float32 whatever autocast would have: bf16 has two digits."""
    with torch.autocast(left.device.type, enabled=False):
        return normalize(left.float(), dim=-1) @ normalize(right.float(), dim=-1).T


def in_batch_softmax(
    queries: Tensor, texts: Tensor, positive: Tensor, *, temperature: float, masked: Tensor | None = None
) -> Tensor:
    """Each query's positive, `texts[positive[i]]`, against all other texts of the batch; mean over queries.

    `masked` [n, m], True: this text is no negative for this query. The positive itself is never masked.
    Called InfoNCE, multiple negatives ranking (Henderson et al. 2017).
    """
    return in_batch(cosine(queries, texts) / temperature, positive, masked)


def in_batch(scores: Tensor, positive: Tensor, masked: Tensor | None = None) -> Tensor:
    """The same of scores [queries, texts] by whatever measure: cosine over a temperature, MaxSim."""
    if masked is not None:
        scores = scores.masked_fill(masked.scatter(1, positive[:, None], False), -torch.inf)
    return cross_entropy(scores, positive)


def same_text(query_ids: Tensor, text_ids: Tensor, positive: Tensor) -> Tensor:
    """[n, m], True where a text is no negative because it is the query's own positive once more, or the positive of
    the same query. Ids [n] and [m] are equal where texts are."""
    own = text_ids[None] == text_ids[positive][:, None]
    of_same_query = torch.zeros_like(own)
    of_same_query[:, positive] = query_ids[:, None] == query_ids[None]
    return own | of_same_query


def guided(guide_queries: Tensor, guide_texts: Tensor, positive: Tensor) -> Tensor:
    """[n, m], True where a guide model finds a text closer to the query than the query's positive, which makes it a
    likely positive too (GISTEmbed, Solatorio 2024)."""
    similarity = cosine(guide_queries, guide_texts)
    return similarity > similarity.gather(1, positive[:, None])


def kl_to_scores(
    queries: Tensor, texts: Tensor, scores: Tensor, owner: Tensor, *, temperature: float, score_temperature: float
) -> Tensor:
    """Each query over its own texts: KL divergence of the similarities' softmax from the scores' softmax.

    `scores` [m] are of any scale; `owner` [m] is the query that a text belongs to. Mean over queries.
    """
    owner, order = owner.sort(stable=True)
    texts, scores = texts[order], scores[order].float()
    with torch.autocast(queries.device.type, enabled=False):
        similarity = (normalize(queries.float(), dim=-1)[owner] * normalize(texts.float(), dim=-1)).sum(-1)
    target = _log_softmax_of(scores / score_temperature, owner, len(queries))
    found = _log_softmax_of(similarity / temperature, owner, len(queries))
    return (target.exp() * (target - found)).sum() / len(queries)


def distillation(
    student: Tensor,
    teacher: Tensor,
    *,
    cosine_weight: float = 10.0,
    similarity_weight: float = 200.0,
    relative_weight: float = 20.0,
    margin: float = 0.015,
) -> Tensor:
    """A teacher's vectors for the same texts, [m, its d]: be like them, be as similar to each other, and in the same
    order. The three losses and their weights are those of Stella and Jasper (Zhang et al. 2024).

    The first one is left out for students of another width. For the third one, pairs of texts are compared where they
    have a text in common, m³ comparisons in place of m⁴: the order in which a text sees the others.
    """
    of_student, of_teacher = cosine(student, student), cosine(teacher, teacher)
    loss = similarity_weight * mse_loss(of_student, of_teacher) + relative_weight * relative_similarity(
        of_student, of_teacher, margin
    )
    if student.shape[-1] == teacher.shape[-1]:
        both = normalize(student.float(), dim=-1) * normalize(teacher.float(), dim=-1)
        loss = loss + cosine_weight * (1 - both.sum(-1)).mean()
    return loss


def relative_similarity(of_student: Tensor, of_teacher: Tensor, margin: float) -> Tensor:
    """For texts i, j, k where the teacher finds j more like i than k [m, m]: the student should, too, by `margin`.

    Mean of the shortfalls over all such triples; 0 when there are none.
    """
    count = len(of_student)
    losses, triples = of_student.new_zeros(()), 0
    for text in range(count):
        others = torch.arange(count, device=of_student.device) != text
        mine, theirs = of_student[text][others], of_teacher[text][others]
        nearer = theirs[:, None] > theirs[None]
        losses = losses + relu(mine[None] - mine[:, None] + margin)[nearer].sum()
        triples = triples + nearer.sum()
    return losses / torch.as_tensor(triples, device=of_student.device).clamp(min=1)


def matryoshka(loss: Callable[..., Tensor], dims: Sequence[int], *vectors: Tensor) -> Tensor:
    """The mean of `loss(*vectors)` over vectors cut to their first `dims` dimensions (Kusupati et al. 2022)."""
    if not dims:
        return loss(*vectors)
    losses = [loss(*(vector[..., :dim] for vector in vectors)) for dim in dims]
    return torch.stack(losses).mean()


def _log_softmax_of(values: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    """log softmax of `values` [m] among those of the same owner, which is sorted. The same as one softmax a row."""
    sizes = torch.bincount(owner, minlength=num_owners)
    starts = sizes.cumsum(0) - sizes
    column = torch.arange(len(owner), device=owner.device) - starts[owner]
    rows = values.new_full((num_owners, int(sizes.max())), -torch.inf).index_put((owner, column), values)
    return rows.log_softmax(-1)[owner, column]
