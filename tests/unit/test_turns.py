"""The line in front of a model."""

from __future__ import annotations

import threading

import pytest

from answer_server.turns import LineFull, Turns
from tests.serving import wait_until


def test_one_at_a_time_in_the_order_in_which_they_came() -> None:
    turns, served = Turns(8), list[int]()
    places = [turns.join() for _ in range(5)]
    assert [place.num_before for place in places] == [0, 1, 2, 3, 4]

    def work(number: int) -> None:
        with places[number]:
            served.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in (3, 1, 4, 2, 0)]
    for thread in threads[:-1]:
        thread.start()
    assert served == []  # the first has not begun
    threads[-1].start()
    for thread in threads:
        thread.join(10)
    assert served == [0, 1, 2, 3, 4]


def test_no_more_than_so_many_wait() -> None:
    turns = Turns(2)
    first, second, third = (turns.join() for _ in range(3))  # one has its turn, two wait
    with pytest.raises(LineFull, match="2 requests are waiting already"):
        turns.join()
    second.leave()
    second.leave()  # once more is nothing
    assert third.num_before == 1 and first.num_before == 0
    turns.join()


def test_who_leaves_without_a_turn_lets_the_next_one_in() -> None:
    turns, entered = Turns(2), threading.Event()
    first, second = turns.join(), turns.join()

    def work() -> None:
        with second:
            entered.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not entered.is_set()
    first.leave()
    thread.join(10)
    assert entered.is_set()


def test_an_error_gives_the_turn_away() -> None:
    turns = Turns(1)
    with pytest.raises(ZeroDivisionError), turns.join():
        _ = 1 // 0
    with turns.join() as place:
        assert place.num_before == 0
    wait_until(lambda: turns.join().num_before == 0)
