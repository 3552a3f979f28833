"""Which passages speak of an answer or a question: the lexical matches that weak labels are made of.

    >>> holds_answer("Twelve years ago it sold 1,200 copies.", ["12", "1500"])
    True
    >>> sorted(content_words("Was the film made in 東京都?"))
    ['film', 'made', '京都', '東京']

An answer that is a number is looked for among the text's numbers, however they are written (1,200 and 1200, twelve and
12, 二〇二四 and 2024): "35" is not in "3.5", and "1990" is in "1990–1995". Any other answer is found as
`jointrag.metrics.accuracy` finds it, in whole words or Chinese and Japanese characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise

from jointrag.metrics import accuracy, is_by_character, normalize

_DIGITS = {numeral: str(value) for value, numeral in enumerate("〇一二三四五六七八九")} | {"零": "0"}
_NUMERALS = re.compile(f"[{''.join(_DIGITS)}]{{2,}}")  # a single one is as often part of a word
_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = dict(zip(_UNITS, range(20), strict=True)) | {
    f"{tens}{unit}": value + i
    for tens, value in zip(_TENS, range(20, 100, 10), strict=True)
    for i, unit in enumerate(["", *(f"-{unit}" for unit in _UNITS[1:10])])
}
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})\b", re.IGNORECASE)
_FUNCTION_WORDS = frozenset(
    """
    about after all also am an and any are as at be been before being both but by can could did do does done
    during each for from had has have he her him his how i if in into is it its many may me more most much my no
    nor not of on or our out over same she should so some such than that their them then there these they this
    those to under until up was we were what when where which who whom whose why will with would yes you your
    """.split()  # noqa: SIM905
)
_CJK_FUNCTION_CHARACTERS = frozenset("的了是在吗呢吧么与及谁什怎为はがをにでともかへ")


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether any of `answers` is in `text`."""
    values = [_value(answer) for answer in answers]
    if any(value is not None for value in values) and not set(values).isdisjoint(_numbers(text)):
        return True
    worded = [answer for answer, value in zip(answers, values, strict=True) if value is None]
    return bool(worded) and accuracy(text, worded) > 0


def content_words(text: str) -> set[str]:
    """The words that say what a text is about: `terms` without function words."""
    return terms(text) - _FUNCTION_WORDS


def terms(text: str) -> set[str]:
    """The words of a text; in Chinese and Japanese pairs of neighbours, as single characters are in every text."""
    words = normalize(text).split()
    found = set(words)
    characters = {word for word in found if is_by_character(word)}
    if not characters:
        return found
    found -= characters
    run: list[str] = []
    for word in (*words, ""):
        if word in characters and word not in _CJK_FUNCTION_CHARACTERS:
            run.append(word)
            continue
        found |= {first + second for first, second in pairwise(run)} if len(run) > 1 else set(run)
        run = []
    return found


def _value(answer: str) -> str | None:
    """The number an answer is; None where it is not just a number."""
    text = _plain(answer)
    found = list(_numbers(text))
    rest = _NUMBER_WORD.sub("", _NUMBER.sub("", text)).strip(" .,")
    return found[0] if len(found) == 1 and not rest else None


def _numbers(text: str) -> Iterator[str]:
    """Every number of a text, in digits."""
    text = _plain(text)
    for found in _NUMBER.findall(text):
        whole, _, fraction = found.replace(",", "").partition(".")
        fraction = fraction.rstrip("0")
        yield f"{int(whole)}.{fraction}" if fraction else str(int(whole))
    for found in _NUMBER_WORD.findall(text):
        yield str(_WORDS[found.lower()])


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text)
    return _NUMERALS.sub(lambda found: "".join(_DIGITS[numeral] for numeral in found.group()), text)
