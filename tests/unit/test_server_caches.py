"""What the retrieval server remembers is bounded, and the least recently asked goes first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jointrag.types import Hit, Passage
from retrieval_server.answers import Answer, AnswerCache, Key
from retrieval_server.cache import ResultCache


def hits(count: int) -> list[Hit]:
    return [Hit(Passage(str(i), "", ""), 1.0) for i in range(count)]


def key(name: str) -> Key:
    return ("/search", "", name.encode())


def test_results_take_room_by_their_passages() -> None:
    cache = ResultCache(10)
    cache.add({"a": hits(4), "b": hits(4)}, 4)
    assert cache.find(["a"], 4) == {"a": hits(4)}
    cache.add({"c": hits(3)}, 4)  # 11: b goes, a was asked since
    assert set(cache.find(["a", "b", "c"], 4)) == {"a", "c"}
    assert cache.find(["a"], 5) == {}


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 7)), max_size=40), st.integers(0, 12))
def test_results_never_take_more_room_than_there_is(adds: list[tuple[str, int]], room: int) -> None:
    cache = ResultCache(room)
    known: dict[tuple[str, int], int] = {}
    for query, k in adds:
        cache.add({query: hits(k)}, k)
        known[query, k] = max(1, k)
        assert sum(size for (one, number), size in known.items() if cache.find([one], number)) <= room


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
