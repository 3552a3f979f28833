"""Which passages speak of an answer: numbers however written, Chinese and Japanese, words that mean something."""

import pytest

from jointrag.matching import content_words, holds_answer, terms


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It sold 1,200 copies.", "1200"),
        ("It sold 1200 copies.", "1,200"),
        ("Twelve people came.", "12"),
        ("12 people came.", "twelve"),
        ("She was twenty-one.", "21"),
        ("It lasted from 1990–1995.", "1990"),
        ("It lasted from 1990-1995.", "1995"),
        ("The height is 3.50 m.", "3.5"),
        ("成立于二〇二四年。", "2024"),
        ("成立于２０２４年。", "2024"),
        ("首都是北京。", "北京"),
        ("Born in New York City.", "New York"),
        ("He has 12 cats.", "12 cats"),
    ],
)
def test_it_is_there(text: str, answer: str) -> None:
    assert holds_answer(text, [answer])
    assert holds_answer(text, ["something else", answer])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The height is 3.5 m.", "35"),
        ("The height is 35 m.", "3.5"),
        ("It sold 11200 copies.", "1200"),
        ("A tennis player.", "10"),
        ("On 12 May 1990.", "199"),
        ("Born in Yorkshire.", "York"),
        ("首都是南京。", "北京"),
        ("", "12"),
    ],
)
def test_it_is_not(text: str, answer: str) -> None:
    assert not holds_answer(text, [answer])


def test_words_that_mean_something() -> None:
    assert content_words("Were Anna and the director of Silent Harbor from the same city?") == {
        *("anna", "director", "silent", "harbor", "city"),
    }
    assert terms("Who is Anna?") == {"who", "is", "anna"}


def test_chinese_is_compared_by_pairs_of_neighbours() -> None:
    assert terms("北京的人口") == {"北京", "人口"}
    assert content_words("上海的人口是多少?") & content_words("上海市有两千万人口。") == {"上海", "人口"}
    assert not content_words("上海在哪里?") & content_words("海上有船。")  # the same characters
