"""Sharing the candidates of a question out over its sub-questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointrag.retrieval import candidates, share_out
from jointrag.types import Hit, Passage


def hits(ids: str) -> list[Hit]:
    return [Hit(Passage(letter, "", letter), -rank) for rank, letter in enumerate(ids)]


def ids(found: list[Hit]) -> str:
    return "".join(hit.passage.id for hit in found)


@pytest.mark.parametrize("queries, shares", [(1, [10]), (2, [5, 5]), (3, [4, 3, 3]), (4, [3, 3, 2, 2])])
def test_ten_are_shared_out_as_in_the_paper(queries: int, shares: list[int]) -> None:
    assert share_out(10, queries) == shares


def test_more_queries_than_candidates() -> None:
    assert share_out(2, 3) == [1, 1, 0]
    assert ids(candidates([hits("ab"), hits("cd"), hits("ef")], 2)) == "ac"


def test_no_query_is_an_error() -> None:
    with pytest.raises(ValueError, match="no query"):
        share_out(10, 0)


def test_gaps_left_by_duplicates_are_filled_in_turn() -> None:
    # shares 3, 3: "b" and "a" are duplicates; the next new hits are d of the first query, then f of the second
    assert ids(candidates([hits("abcdx"), hits("baefg")], 6)) == "abcedf"


def test_one_query_runs_dry() -> None:
    assert ids(candidates([hits("a"), hits("abcd")], 4)) == "abcd"
    assert ids(candidates([hits("ab"), hits("ba")], 10)) == "ab"


@given(
    lists=st.lists(st.lists(st.sampled_from("abcdefghijkl"), unique=True), min_size=1, max_size=5),
    num_candidates=st.integers(1, 12),
)
def test_properties(lists: list[list[str]], num_candidates: int) -> None:
    per_query = [hits("".join(letters)) for letters in lists]
    found = ids(candidates(per_query, num_candidates))
    union = set().union(*lists)
    assert len(set(found)) == len(found) == min(num_candidates, len(union))
    assert set(found) <= union
    for letters, share in zip(lists, share_out(num_candidates, len(lists)), strict=True):
        assert set(letters[:share]) <= set(found)


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_even(num_candidates: int, num_queries: int) -> None:
    shares = share_out(num_candidates, num_queries)
    assert sum(shares) == num_candidates
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)
