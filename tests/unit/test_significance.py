from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evaluation import significance
from evaluation.significance import (
    paired_bootstrap,
    paired_bootstraps,
    randomisation_p_value,
    randomisation_p_values,
)


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


# ---- against scipy ---------------------------------------------------------------------------------------------------

scores = st.lists(st.sampled_from([-1.0, -0.5, -1 / 3, 0.0, 0.25, 2 / 3, 1.0]), min_size=3, max_size=10)


@settings(max_examples=30, deadline=None)
@given(scores)
def test_p_value_is_that_of_scipys_permutation_test(values: list[float]) -> None:
    """scipy counts all sign flips of so few questions; ours draws them."""
    differences = np.array(values)
    exact = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=100_000,  # more than there are flips
        alternative="two-sided",
    ).pvalue
    ours = randomisation_p_value(differences, np.random.default_rng(0), 20_000)
    spread = 4.5 * math.sqrt(exact * (1 - exact) / 20_000) + 1 / 20_000
    assert ours == pytest.approx(exact, abs=spread)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1, 1, width=16), min_size=20, max_size=60), st.integers(0, 2**32 - 1))
def test_interval_is_that_of_scipys_bootstrap(values: list[float], seed: int) -> None:
    differences = np.array(values)
    theirs = stats.bootstrap(
        (differences,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(seed)
    )
    ours = paired_bootstrap(differences, np.random.default_rng(seed + 1), 20_000)
    error = differences.std() / np.sqrt(len(differences))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * error + 1e-9)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * error + 1e-9)


def test_p_value_of_many_questions_is_that_of_the_normal_approximation() -> None:
    differences = np.random.default_rng(5).normal(0.03, 0.5, size=2_000)
    z = differences.mean() / np.sqrt((differences**2).mean() / len(differences))
    ours = randomisation_p_value(differences, np.random.default_rng(0), 20_000)
    assert ours == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)


def test_p_values_are_uniform_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(2)
    p_values = randomisation_p_values(rng.normal(size=(50, 300)), rng, 999)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_p_value_extremes() -> None:
    rng = np.random.default_rng(0)
    assert randomisation_p_value(np.zeros(20), rng, 500) == 1.0
    assert randomisation_p_value(np.ones(50), rng, 500) == 1 / 501, "never 0: what was found is one of the cases"


def test_many_together_are_what_they_are_alone() -> None:
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1 / 3, 1.0], size=(200, 40))
    together = paired_bootstraps(differences, np.random.default_rng(0), 500)
    p_values = randomisation_p_values(differences, np.random.default_rng(0), 500)
    for i in range(differences.shape[1]):
        assert paired_bootstrap(differences[:, i], np.random.default_rng(0), 500) == together[i]
        assert randomisation_p_value(differences[:, i], np.random.default_rng(0), 500) == p_values[i]
