from __future__ import annotations

from evaluation.examples import pick
from jointrag.types import Episode, Question


def episodes(answers: str) -> list[Episode]:
    """One episode per letter: r(ight), h(alf right) or w(rong)."""
    texts = {"r": "New Rome", "h": "Rome", "w": "Oslo"}
    return [Episode(Question(f"q{i}", "Where?", ("New Rome",)), answer=texts[a]) for i, a in enumerate(answers)]


def test_counts_and_picks() -> None:
    found = pick(episodes("wwwhrrhw"), episodes("rhwrwhhr"), num_examples=3)
    assert (found.num_won, found.num_lost, found.num_same) == (4, 2, 2)
    assert len(found.won) == 2
    assert len(found.lost) == 1
    assert all(example.delta > 0 for example in found.won)
    assert all(example.before.question == example.after.question for example in found.won + found.lost)
    assert found == pick(episodes("wwwhrrhw"), episodes("rhwrwhhr"), num_examples=3)


def test_one_half_does_not_fill_up_the_other() -> None:
    found = pick(episodes("wwww"), episodes("rrrr"), num_examples=4)
    assert (len(found.won), len(found.lost)) == (2, 0)
    assert pick(episodes("wr"), episodes("rw"), num_examples=0).won == ()
