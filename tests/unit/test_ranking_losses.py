"""The reranker's losses against sentence-transformers' own, on the same logits and groups, and by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as reference
from torch import Tensor

from trainers.retrieval import ranking_losses as ours

LOGITS = [[2.0, -1.0, 0.5], [0.3, 0.1], [-3.0, 4.0, 0.0, 1.5]]
GRADES = [[1.0, 0.0, 0.5], [0.0, 1.0], [0.25, 1.0, 0.0, 0.5]]


class Fixed(CrossEncoder):
    """Says the logits it was made with, in the order in which pairs are asked for."""

    def __init__(self, logits: Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.logits = logits

    @property
    def num_labels(self) -> int:
        return 1

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def preprocess(self, inputs: Sequence[Any], prompt: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"places": torch.tensor([int(text) for _, text in inputs])}

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {"scores": self.logits[input["places"], None]}


def flat(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor([value for row in rows for value in row])


def grouped(logits: Tensor, labels: Sequence[Sequence[float]]) -> ours.Grouped:
    return ours.group(logits, flat(labels), torch.tensor([len(row) for row in labels]))


def texts(rows: Sequence[Sequence[float]]) -> list[list[str]]:
    """The texts of every query: each is its place among the flat logits."""
    places = iter(range(sum(map(len, rows))))
    return [[str(next(places)) for _ in row] for row in rows]


def entropy(rows: Sequence[Sequence[float]]) -> float:
    shares = [torch.tensor(row).softmax(0) for row in rows]
    return float(torch.stack([-(share * share.log()).sum() for share in shares]).mean())


def of_lists(name: str, logits: Tensor, labels: Sequence[Sequence[float]]) -> Tensor:
    """sentence-transformers' loss on (queries, lists of texts, lists of labels)."""
    model = Fixed(logits)
    loss = {
        "pairwise": lambda: reference.RankNetLoss(model, reduction_log="natural"),
        "lambda": lambda: reference.LambdaLoss(model, reduction_log="natural"),
        "kl": lambda: reference.ListNetLoss(model),
    }[name]()
    queries: list[Any] = ["q"] * len(labels)
    return loss([queries, texts(labels)], [torch.tensor(row) for row in labels])


def of_pairs(name: str, logits: Tensor, labels: Sequence[Sequence[float]]) -> Tensor:
    model = Fixed(logits)
    loss = {
        "point_ce": lambda: reference.BinaryCrossEntropyLoss(model),
        "point_mse": lambda: reference.MSELoss(model, activation_fn=torch.nn.Sigmoid()),
    }[name]()
    return loss([["q"] * len(logits), [text for row in texts(labels) for text in row]], flat(labels))


def value_and_gradient(loss: Any, *arguments: Any) -> tuple[float, Tensor]:
    logits = flat(LOGITS).requires_grad_()
    value = loss(*(logits if argument is ... else argument for argument in arguments))
    value.backward()
    assert logits.grad is not None
    return float(value.detach()), logits.grad


@pytest.mark.parametrize("name", ["point_ce", "point_mse", "pairwise", "lambda", "kl"])
def test_as_sentence_transformers_has_it(name: str) -> None:
    value, gradient = value_and_gradient(lambda logits: ours.LOSSES[name](grouped(logits, GRADES)), ...)
    theirs = of_pairs if name.startswith("point") else of_lists
    expected, their_gradient = value_and_gradient(theirs, name, ..., GRADES)
    if name == "kl":  # their cross-entropy, less what no model can change
        expected -= entropy(GRADES)
    assert value == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(gradient, their_gradient, atol=1e-6, rtol=1e-5)


def test_margin_mse_as_sentence_transformers_has_it() -> None:
    logits, labels = [[2.0, -1.0, 0.5], [0.3, 0.1, -0.4]], [[5.0, 1.0, 2.0], [0.0, 1.0, -2.0]]
    loss = reference.MarginMSELoss(Fixed(flat(logits)))
    columns = [list(column) for column in zip(*texts(labels), strict=True)]
    expected = loss([["q", "q"], *columns], torch.tensor(labels))
    assert float(ours.margin_mse(grouped(flat(logits), labels))) == pytest.approx(float(expected), abs=1e-6)


def test_listwise_with_one_positive_is_the_softmax_loss() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -2.0]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 0]))
    value = ours.listwise(grouped(logits.flatten(), [[1, 0, 0], [1, 0, 0]]))
    assert float(value) == pytest.approx(float(expected), abs=1e-6)


def test_by_hand() -> None:
    two = [[1.0, 0.0]]

    def loss(name: str, logits: list[float]) -> float:
        return float(ours.LOSSES[name](grouped(torch.tensor(logits), two)))

    assert loss("point_ce", [0.0, 0.0]) == pytest.approx(math.log(2))
    assert loss("point_mse", [0.0, 0.0]) == pytest.approx(0.25)
    assert loss("pairwise", [1.0, 0.0]) == pytest.approx(math.log(1 + math.exp(-1)))
    assert loss("listwise", [1.0, 0.0]) == pytest.approx(math.log(1 + math.exp(-1)))
    assert loss("margin_mse", [3.0, 0.0]) == pytest.approx(4.0)
    assert loss("kl", [4.0, 3.0]) == pytest.approx(0.0, abs=1e-7)  # the logits differ as the labels do
    # one pair, ranks 1 and 2, gains 1 and 0, best DCG 1: |1/log2(2) - 1/log2(3)| = 0.36907, and 10 times that
    assert loss("lambda", [1.0, 0.0]) == pytest.approx(11 * (1 - 1 / math.log2(3)) * math.log(1 + math.exp(-1)))


def test_a_query_with_nothing_to_tell_apart_teaches_nothing() -> None:
    labels = [[0.0, 0.0, 0.0], [0.0, 1.0], [0.25, 1.0, 0.0, 0.5]]
    for name in ("pairwise", "lambda", "listwise"):
        _, gradient = value_and_gradient(lambda logits, name=name: ours.LOSSES[name](grouped(logits, labels)), ...)
        assert torch.equal(gradient[:3], torch.zeros(3)), name
        assert gradient[3:].abs().min() > 0 or name == "lambda"
    alone = grouped(torch.tensor([1.0, 2.0]), [[0.0, 0.0]])
    assert float(ours.pairwise(alone)) == float(ours.lambda_ndcg(alone)) == float(ours.listwise(alone)) == 0


def test_extreme_logits_keep_their_gradients() -> None:
    for name, loss in ours.LOSSES.items():
        logits = torch.tensor([-500.0, 500.0, 0.0], requires_grad=True)
        value = loss(grouped(logits, [[1.0, 0.0, 0.0]]))
        value.backward()
        assert logits.grad is not None
        assert torch.isfinite(value), name
        assert torch.isfinite(logits.grad).all(), name
        if name != "point_mse":  # a saturated sigmoid has none
            assert logits.grad[0] < 0, name


@pytest.mark.parametrize("name", ["point_ce", "point_mse", "pairwise", "kl", "margin_mse"])
def test_filled_places_have_no_say(name: str) -> None:
    clean = grouped(flat(LOGITS), GRADES)
    filled = ours.Grouped(
        clean.logits.masked_fill(~clean.mask, 7.0), clean.labels.masked_fill(~clean.mask, 9.0), clean.mask
    )
    assert float(ours.LOSSES[name](filled)) == pytest.approx(float(ours.LOSSES[name](clean)), abs=1e-6)
