"""Questions won and lost in the main comparison, picked at random: what the numbers look like from near by."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from jointrag.metrics import f1
from jointrag.types import Episode


@dataclass(frozen=True, slots=True)
class Example:
    """One question's way through two systems."""

    before: Episode
    after: Episode

    @property
    def delta(self) -> float:
        return score(self.after) - score(self.before)


@dataclass(frozen=True, slots=True)
class Examples:
    """`won` and `lost` are the ones to show; the counts are of all questions."""

    won: tuple[Example, ...] = ()
    lost: tuple[Example, ...] = ()
    num_won: int = 0
    num_lost: int = 0
    num_same: int = 0
    names: tuple[str, str] = ("before", "after")
    """Of the two systems."""


def score(episode: Episode) -> float:
    return f1(episode.answer, episode.question.answers)


def pick(
    before: Sequence[Episode],
    after: Sequence[Episode],
    num_examples: int,
    names: tuple[str, str] = ("before", "after"),
) -> Examples:
    """Half of `num_examples` from those with a higher F1 after than before, half from those with a lower one.

    At random, but the same ones for the same episodes. Where one half has too few, the other does not fill up.
    """
    earlier = {episode.question.id: episode for episode in before}
    pairs = [Example(earlier[e.question.id], e) for e in after if e.question.id in earlier]
    won = [pair for pair in pairs if pair.delta > 0]
    lost = [pair for pair in pairs if pair.delta < 0]
    rng = random.Random(0)
    num_lost = num_examples // 2
    return Examples(
        won=tuple(rng.sample(won, min(len(won), num_examples - num_lost))),
        lost=tuple(rng.sample(lost, min(len(lost), num_lost))),
        num_won=len(won),
        num_lost=len(lost),
        num_same=len(pairs) - len(won) - len(lost),
        names=names,
    )


def sentence(examples: Examples) -> str:
    """How many questions were won, lost and neither, and how many of them are shown."""
    return (
        f"F1 rose on {examples.num_won:,} questions, fell on {examples.num_lost:,} "
        f"and stayed on {examples.num_same:,}. "
        f"Shown: {len(examples.won)} of the first and {len(examples.lost)} of the second, picked at random."
    )
