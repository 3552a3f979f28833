"""How good an answer is: the one normaliser and the metrics that reward, evaluation and report all call.

    >>> f1("the Eiffel Tower", ["Eiffel tower, Paris", "La tour Eiffel"])
    0.8
    >>> accuracy("It is the Eiffel Tower.", ["Eiffel Tower"]), exact_match("It is the Eiffel Tower.", ["Eiffel Tower"])
    (1.0, 0.0)

Every metric is `(answer, golds) -> float` in 0..1. Each gold answer is compared on its own and the best one counts;
golds are never joined. On plain English, exact match and F1 are those of the SQuAD and HotpotQA scorers. Three things
differ or are easy to get wrong, so they are fixed here:

- Unicode. Text is brought to NFKC, so composed and decomposed accents and full-width forms compare equal; accents stay;
  punctuation of every script is stripped. Chinese and Japanese are compared by character, other scripts by word.
- Verdicts. When answer or gold is just "yes", "no" or "noanswer", F1, precision and recall are 1 if they are equal,
  else 0 (HotpotQA's rule: "no" is not half of "no man's land"). Accuracy looks for the verdict in the answer, and an
  answer that says both yes and no is wrong.
- Nothing. An answer of which nothing is left ("", "the", "?") scores 1 if nothing is left of a gold either, else 0
  (SQuAD 2's rule). No golds at all is an error: there is nothing to score against.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

Metric = Callable[[str, Sequence[str]], float]

VERDICTS = frozenset({"yes", "no", "noanswer"})
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_BY_CHARACTER = (  # written without spaces: iteration and closing marks, kana, Han with its extensions
    (0x3005, 0x3007),
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


def is_by_character(word: str) -> bool:
    """True for a single Chinese or Japanese character, which counts as a word."""
    return len(word) == 1 and _is_by_character(word)


@cache
def _is_by_character(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in _BY_CHARACTER)


class _CharacterTable(dict[int, str]):
    """For str.translate: drops punctuation and invisible marks, puts spaces round Chinese and Japanese characters."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in string.punctuation or category[0] == "P" or category == "Cf":
            result = ""
        elif is_by_character(character):
            result = f" {character} "
        else:
            result = character
        self[code] = result
        return result


_TABLE = _CharacterTable()


def normalize(text: str) -> str:
    """Words in comparable form, one space between them: no case, no punctuation, no a/an/the.

    Each Chinese or Japanese character is a word. So `.split()` gives the words, and whole-word containment is
    `f" {normalize(a)} " in f" {normalize(b)} "`.

    >>> normalize("The  U.S. Café,\\u3000２０２４!")
    'us café 2024'
    >>> normalize("東京（とうきょう）")
    '東 京 と う き ょ う'
    """
    text = unicodedata.normalize("NFKC", text).casefold().translate(_TABLE)
    text = unicodedata.normalize("NFKC", text)  # again: case folding and what was dropped can leave marks to compose
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 if the normalised answer equals a normalised gold, else 0.

    >>> exact_match("a cat", ["dog", "The Cat"])
    1.0
    """
    return _best(_exact_match, answer, golds)


def f1(answer: str, golds: Sequence[str]) -> float:
    """Harmonic mean of word precision and recall; words count as often as they occur."""
    return _best(_f1, answer, golds)


def precision(answer: str, golds: Sequence[str]) -> float:
    """Share of the answer's words that are in the gold (the best gold for this metric).

    >>> precision("born in Paris", ["Paris"])
    0.3333333333333333
    """
    return _best(lambda a, g: _precision_recall(a, g)[0], answer, golds)


def recall(answer: str, golds: Sequence[str]) -> float:
    """Share of the gold's words that are in the answer (the best gold for this metric).

    >>> recall("born in Paris", ["Paris"])
    1.0
    """
    return _best(lambda a, g: _precision_recall(a, g)[1], answer, golds)


def accuracy(answer: str, golds: Sequence[str]) -> float:
    """1 if a normalised gold is contained in the normalised answer as whole words, else 0.

    >>> accuracy("in New York City", ["New York"]), accuracy("a New Yorker", ["New York"])
    (1.0, 0.0)
    >>> accuracy("Yes, both are.", ["yes"]), accuracy("Yes and no.", ["yes"])
    (1.0, 0.0)
    """
    return _best(_accuracy, answer, golds)


METRICS: dict[str, Metric] = {"f1": f1, "em": exact_match, "accuracy": accuracy}
"""The metrics that can be a reward, and that evaluation reports, by their names in settings and tables."""


# ---- one normalised answer against one normalised gold ---------------------------------------------------------------


def _best(score: Callable[[str, str], float], answer: str, golds: Sequence[str]) -> float:
    if isinstance(golds, str):  # a string is a sequence too: its letters would be scored as golds
        raise TypeError(f"golds must be a list of answers, got the string {golds!r}")
    if not golds:
        raise ValueError("no gold answer to score against; give the question at least one")
    normalized = normalize(answer)
    return max(score(normalized, normalize(gold)) for gold in golds)


def _exact_match(answer: str, gold: str) -> float:
    return float(answer == gold)


def _precision_recall(answer: str, gold: str) -> tuple[float, float]:
    if answer == gold:  # also both empty
        return 1.0, 1.0
    if not answer or not gold or answer in VERDICTS or gold in VERDICTS:
        return 0.0, 0.0
    answer_words, gold_words = answer.split(), gold.split()
    num_shared = (Counter(answer_words) & Counter(gold_words)).total()
    return num_shared / len(answer_words), num_shared / len(gold_words)


def _f1(answer: str, gold: str) -> float:
    p, r = _precision_recall(answer, gold)
    return 2 * p * r / (p + r) if p + r else 0.0


def _accuracy(answer: str, gold: str) -> float:
    if not gold:
        return float(not answer)
    if f" {gold} " not in f" {answer} ":
        return 0.0
    contradicts = gold in VERDICTS and bool(VERDICTS & set(answer.split()) - {gold})
    return float(not contradicts)
