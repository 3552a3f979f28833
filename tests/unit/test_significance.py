from __future__ import annotations

import numpy as np
import pytest

from evaluation import significance
from evaluation.significance import paired_bootstrap


def test_agrees_with_the_normal_approximation() -> None:
    differences = np.random.default_rng(1).normal(0.1, 0.5, size=2_000)
    found = paired_bootstrap(differences, np.random.default_rng(0))
    error = differences.std() / np.sqrt(len(differences))
    assert found.delta == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    assert found.num_questions == 2_000


def test_agrees_with_the_binomial_distribution() -> None:
    """40 wins of 1 among 100 questions, the rest ties: a resampled sum is binomial(100, 0.4)."""
    found = paired_bootstrap(np.repeat([1.0, 0.0], [40, 60]), np.random.default_rng(0))
    assert found.low == pytest.approx(0.31, abs=0.011)  # scipy.stats.binom.ppf([.025, .975], 100, .4) = 31, 50
    assert found.high == pytest.approx(0.50, abs=0.011)


def test_one_sided_share() -> None:
    rng = np.random.default_rng(0)
    assert paired_bootstrap(np.ones(50), rng).share_not_better == 0.0
    assert paired_bootstrap(np.zeros(50), rng).share_not_better == 1.0
    # one win, one loss: the resampled sum is +2, 0, 0, -2 with equal chance
    assert paired_bootstrap(np.array([1.0, -1.0]), rng).share_not_better == pytest.approx(0.75, abs=0.02)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    found = [paired_bootstrap(rng.normal(0.2, 1, size=200), rng, num_resamples=1_000) for _ in range(200)]
    assert 0.90 <= np.mean([f.low <= 0.2 <= f.high for f in found]) <= 0.99


def test_same_seed_same_numbers_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(1).normal(size=300)
    whole = paired_bootstrap(differences, np.random.default_rng(7), num_resamples=999)
    assert whole == paired_bootstrap(differences, np.random.default_rng(7), num_resamples=999)
    monkeypatch.setattr(significance, "MAX_CELLS", 1_000)
    assert paired_bootstrap(differences, np.random.default_rng(7), num_resamples=999) == whole


@pytest.mark.parametrize("wrong", [np.array([]), np.ones((2, 2)), np.array([0.1, np.nan])])
def test_refuses(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="difference"):
        paired_bootstrap(wrong, np.random.default_rng(0))
