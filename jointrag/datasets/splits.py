"""Questions in splits: too few splits made into enough, questions that are in two of them found."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence

from jointrag.metrics import normalize
from jointrag.types import Question

logger = logging.getLogger(__name__)


def warn_of_near_duplicates(splits: Mapping[str, Sequence[Question]]) -> int:
    """How many questions have the same words as one of an earlier split; a warning names the first of each split.

    They make scores look better than they are.
    """
    total = 0
    split_of: dict[tuple[str, ...], str] = {}
    for split, questions in splits.items():
        shared = [q for q in questions if split_of.setdefault(_words(q), split) != split]
        total += len(shared)
        if shared:
            logger.warning(
                "%d questions of %s are in another split too, word for word or nearly (the first: %r, in %s); scores "
                "on them say little",
                len(shared),
                split,
                shared[0].id,
                split_of[_words(shared[0])],
            )
    return total


def _words(question: Question) -> tuple[str, ...]:
    """What near-duplicates have in common: their words, whatever the order, articles and punctuation aside."""
    return tuple(sorted(set(normalize(question.text).split())))


def share_out(
    published: Mapping[str, Sequence[Question]],
    num_train: int | None,
    num_dev: int,
    num_test: int | None,
    seed: int,
) -> dict[str, list[Question]]:
    """train, dev and test from the splits of `published` (of the same names) that have answers.

    A published test split is for testing; without one, the published dev split is. What then is missing is taken from
    train, by the seed: a test split of a tenth, at most 1,000, unless `num_test` says more. Raises ValueError where
    nothing is left to train on.
    """
    rng = random.Random(seed)
    held_out = published.get("test") or published.get("dev") or ()
    pool = list(published.get("train") or held_out)
    rng.shuffle(pool)
    if published.get("train") and held_out:
        test = list(held_out)
        if num_test is not None:
            test = rng.sample(test, min(num_test, len(test)))
    else:
        count = num_test if num_test is not None else min(1_000, len(pool) // 10)
        test, pool = pool[:count], pool[count:]
    if published.get("test") and published.get("dev"):
        dev = rng.sample(list(published["dev"]), min(num_dev, len(published["dev"])))
    else:
        dev, pool = pool[:num_dev], pool[num_dev:]
    if not pool:
        raise ValueError(
            f"{sum(map(len, published.values())):,} questions are too few for {len(dev):,} of dev and {len(test):,} of "
            "test; lower dataset.num_dev_questions or dataset.num_test_questions"
        )
    return {"train": pool[:num_train], "dev": dev, "test": test}
