"""What the retrieval server remembers is bounded, and the least recently asked goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jointrag.recently_used import RecentlyUsed
from retrieval_server.answers import Answer, AnswerCache, Key


def key(name: str) -> Key:
    return ("/search", "", name.encode())


def test_the_least_recently_asked_goes_first() -> None:
    known = RecentlyUsed[str, str](10, lambda _, value: len(value))
    known.add({"a": "1234", "b": "1234"})
    assert known.find(["a"]) == {"a": "1234"}
    known.add({"c": "123"})  # 11: b goes, a was asked since
    assert set(known.find(["a", "b", "c"])) == {"a", "c"}


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 7)), max_size=40), st.integers(0, 12))
def test_there_is_never_more_than_there_is_room_for(adds: list[tuple[str, int]], room: int) -> None:
    known = RecentlyUsed[tuple[str, int], int](room, lambda _, size: size)
    for name, size in adds:
        known.add({(name, size): size})
        assert sum(known.find(set(adds)).values()) <= room


def test_answers_take_room_by_their_bytes() -> None:
    cache = AnswerCache(20_000)
    for name in "abcdefghi":
        cache.add(key(name), Answer([], b"x" * 1000, 1))
    assert all(cache.find(key(name)) for name in "abcdefghi")
    cache.add(key("j"), Answer([], b"x" * 1000, 1))
    assert cache.find(key("a")) is None and cache.find(key("b")) is not None
    cache.add(key("large"), Answer([], b"x" * 5000, 1))
    assert cache.find(key("large")) is None and cache.find(key("b")) is not None


def test_no_room_keeps_nothing() -> None:
    cache = AnswerCache(0)
    cache.add(key("a"), Answer([], b"", 1))
    assert cache.find(key("a")) is None
