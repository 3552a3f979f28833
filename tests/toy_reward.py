"""Rewards with a known optimum, for tests: what a user's own reward function looks like."""

from __future__ import annotations

from jointrag.types import Episode

BOTH, ONE, NONE = 1.0, 0.25, 0.0


def two_words(episode: Episode) -> float:
    """1 when the rewriter's first word is `lives` and the generator's is `Oslo`; a quarter for one of the two."""
    first = {turn.agent: turn.response.split()[:1] for turn in episode.turns}
    right = (first["rewriter"] == ["lives"]) + (first["generator"] == ["Oslo"])
    return (NONE, ONE, BOTH)[right]


def always_one(episode: Episode) -> float:
    return 1.0
