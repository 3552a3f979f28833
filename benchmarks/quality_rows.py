"""The ways of training that benchmarks/retrieval_quality.py compares, and the settings it chooses from for each."""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.rankings import ModelKind
from jointrag.config import NegativesConfig

MINING = {
    "default": NegativesConfig(num_negatives=7),
    "any score": NegativesConfig(num_negatives=7, max_share=None),
}


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings to choose from."""

    learning_rate: float
    num_epochs: float
    negatives: str = ""  # how they are mined; empty: there are none


@dataclass(frozen=True, slots=True)
class Row:
    """A way of training. `after`: the row whose settings it starts from, in place of learning rates of its own."""

    kind: ModelKind
    trials: tuple[Trial, ...] = ()
    num_negatives: int = 0
    after: str = ""


ROWS = {
    "pairs": Row("embedding", (Trial(3e-5, 3), Trial(1e-4, 3))),
    "negatives": Row("embedding", num_negatives=1, after="pairs"),
    "reranker": Row("reranker", (Trial(5e-5, 2, "any score"), Trial(2e-4, 2, "any score")), num_negatives=3),
    "late_interaction": Row(
        "late_interaction", (Trial(3e-5, 2, "any score"), Trial(1e-4, 2, "any score")), num_negatives=1
    ),
}
LABELS = {
    "pairs": "fine-tuned on pairs",
    "negatives": "fine-tuned on pairs with mined negatives",
    "reranker": "cross-encoder over the top 50",
    "late_interaction": "late interaction over the top 50",
}
