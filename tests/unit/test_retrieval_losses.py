"""Losses of embedding models: against sentence-transformers' own, brute force, and values worked out by hand."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as reference
from torch import Tensor, nn

from tests.tiny_retrievers import WORDS
from trainers.retrieval.losses import (
    cosine,
    distillation,
    guided,
    in_batch_softmax,
    kl_to_scores,
    matryoshka,
    relative_similarity,
    same_text,
)
from trainers.scratch import word_level_tokenizer


class Given(nn.Module):
    """Stands for a model: its vectors are in the features already."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.max_seq_length = 64
        self.tokenizer = word_level_tokenizer(WORDS, ["[PAD]", "[UNK]"], lowercase=True)

    def __getitem__(self, index: int) -> nn.Module:
        return self

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.name]}


def vectors(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def interleaved(*columns: Tensor) -> Tensor:
    """[n, d] columns (positive, negatives …) as the texts of n queries, [n · columns, d]."""
    return torch.stack(columns, dim=1).flatten(0, 1)


def test_softmax_is_multiple_negatives_ranking() -> None:
    queries, positives, negatives = vectors(5, 8), vectors(5, 8, seed=1), vectors(5, 8, seed=2)
    features: Any = [{"vectors": column} for column in (queries, positives, negatives)]
    expected = reference.MultipleNegativesRankingLoss(Given("vectors"), scale=20.0)(features, None)  # type: ignore[arg-type]
    texts = interleaved(positives, negatives)
    found = in_batch_softmax(queries, texts, torch.arange(5) * 2, temperature=0.05)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    wanted = torch.autograd.grad(expected, [queries, positives, negatives])
    torch.testing.assert_close(torch.autograd.grad(found, [queries, positives, negatives]), wanted)


@pytest.mark.parametrize("with_negatives", [False, True])
def test_a_guide_masks_what_gist_masks(with_negatives: bool) -> None:
    columns = [vectors(6, 8, seed=i) for i in range(3 if with_negatives else 2)]
    guide_columns = [vectors(6, 8, seed=10 + i).detach() for i in range(len(columns))]
    model, guide = Given("vectors"), Given("of guide")
    loss = reference.GISTEmbedLoss(model, guide, 0.1, contrast_anchors=False, contrast_positives=False)  # type: ignore[arg-type]
    features: Any = [{"vectors": v, "of guide": g} for v, g in zip(columns, guide_columns, strict=True)]
    expected = loss(features, None)  # type: ignore[arg-type]
    texts, positive = interleaved(*columns[1:]), torch.arange(6) * (len(columns) - 1)
    mask = guided(guide_columns[0], interleaved(*guide_columns[1:]), positive)
    assert mask.any() and not mask.all()
    found = in_batch_softmax(columns[0], texts, positive, temperature=0.1, masked=mask)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, columns), torch.autograd.grad(expected, columns))


def test_texts_that_are_no_negatives() -> None:
    query_ids = torch.tensor([1, 2, 1])  # the first and the last ask the same
    text_ids = torch.tensor(
        [10, 11, 20, 10, 30, 31]
    )  # two texts a query; the second's negative is the first's positive
    positive = torch.tensor([0, 2, 4])
    assert same_text(query_ids, text_ids, positive).tolist() == [
        [True, False, False, True, True, False],  # its own, its own once more, the same query's
        [False, False, True, False, False, False],
        [True, False, False, False, True, False],
    ]


def test_all_masked_is_zero_and_not_nan() -> None:
    queries, texts = vectors(3, 4), vectors(3, 4, seed=1)
    loss = in_batch_softmax(queries, texts, torch.arange(3), temperature=0.1, masked=torch.ones(3, 3, dtype=torch.bool))
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [queries, texts]):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_kl_is_sentence_transformers_for_lists_of_one_length() -> None:
    columns = [vectors(4, 8, seed=i) for i in range(4)]
    scores = vectors(4, 3, seed=9).detach()
    features: Any = [{"vectors": column} for column in columns]
    theirs = reference.DistillKLDivLoss(
        Given("vectors"),  # type: ignore[arg-type]
        similarity_fct=lambda a, b: nn.functional.cosine_similarity(a, b),
        student_temperature=0.1,
        teacher_temperature=0.5,
    )(features, scores)
    found = kl_to_scores(
        columns[0],
        interleaved(*columns[1:]),
        scores.flatten(),
        torch.arange(4).repeat_interleave(3),
        temperature=0.1,
        score_temperature=0.5,
    )
    assert found.item() == pytest.approx(theirs.item() / 0.1**2, rel=1e-5)  # they scale by the temperature's square


def test_kl_of_lists_of_many_lengths_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    texts = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])  # cosines: 1, 0 with the first; 1 with the second
    scores = torch.tensor([0.0, math.log(3), 7.0])
    found = kl_to_scores(queries, texts, scores, torch.tensor([0, 0, 1]), temperature=1.0, score_temperature=1.0)
    share = 1 / (1 + math.exp(-1))  # of the first text, in the model's eyes
    by_hand = 0.25 * math.log(0.25 / share) + 0.75 * math.log(0.75 / (1 - share))  # and 0 for a list of one
    assert found.item() == pytest.approx(by_hand / 2, rel=1e-5)
    shuffled = kl_to_scores(
        queries, texts[[2, 0, 1]], scores[[2, 0, 1]], torch.tensor([1, 0, 0]), temperature=1.0, score_temperature=1.0
    )
    assert shuffled.item() == pytest.approx(found.item(), rel=1e-6)


def test_relative_similarity_is_what_loops_over_triples_give() -> None:
    student, teacher = vectors(6, 4), vectors(6, 5, seed=1).detach()
    ours, theirs = cosine(student, student), cosine(teacher, teacher)
    shortfalls = [
        max(0.0, (ours[i, k] - ours[i, j] + 0.015).item())
        for i, j, k in permutations(range(6), 3)
        if theirs[i, j] > theirs[i, k]
    ]
    found = relative_similarity(ours, theirs, 0.015)
    assert found.item() == pytest.approx(sum(shortfalls) / len(shortfalls), rel=1e-5)
    assert relative_similarity(ours[:1, :1], theirs[:1, :1], 0.015).item() == 0


def test_distillation_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    teacher = torch.tensor([[0.0, 2.0], [0.0, 1.0]])  # all alike: similarity 1 everywhere, no order to learn
    root = math.sqrt(0.5)
    found = distillation(student, teacher, cosine_weight=10, similarity_weight=200, relative_weight=20)
    assert found.item() == pytest.approx(10 * (1 + 1 - root) / 2 + 200 * 2 * (1 - root) ** 2 / 4, rel=1e-5)
    wider = torch.cat([teacher, torch.zeros(2, 3)], dim=1)  # another width: no likeness of vectors
    assert distillation(student, wider, similarity_weight=200).item() == pytest.approx(100 * (1 - root) ** 2, rel=1e-5)


@pytest.mark.parametrize("rows", [torch.zeros(4, 3), torch.ones(4, 3)])
def test_gradients_are_numbers_at_the_edges(rows: Tensor) -> None:
    """Vectors of zeros, and vectors that are all the same: known to become NaN elsewhere."""
    left, right = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    scores, owner = torch.tensor([1e4, -1e4, 0.0, 5.0]), torch.tensor([0, 0, 1, 1])
    for loss in (
        in_batch_softmax(left, right, torch.arange(4), temperature=0.01),
        kl_to_scores(left[:2], right, scores, owner, temperature=0.01, score_temperature=0.01),
        distillation(left, torch.arange(12.0).view(4, 3)),
    ):
        assert torch.isfinite(loss)
        (gradient,) = torch.autograd.grad(loss, [left])
        assert torch.isfinite(gradient).all()


def test_matryoshka_is_the_mean_over_dimensions() -> None:
    queries, texts, positive = vectors(3, 8), vectors(3, 8, seed=1), torch.arange(3)

    def softmax(queries: Tensor, texts: Tensor) -> Tensor:
        return in_batch_softmax(queries, texts, positive, temperature=0.1)

    of_each = [softmax(queries[:, :d], texts[:, :d]).item() for d in (2, 8)]
    assert matryoshka(softmax, (2, 8), queries, texts).item() == pytest.approx(sum(of_each) / 2)
    assert matryoshka(softmax, (), queries, texts).item() == pytest.approx(of_each[1])


def test_similarities_stay_exact_under_autocast() -> None:
    left, right = vectors(4, 64), vectors(4, 64, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine(left, right)
    torch.testing.assert_close(found, cosine(left, right), rtol=0, atol=0)
