"""Answer metrics against the published SQuAD and HotpotQA scoring, written down here once more from its description.

Rajpurkar et al., 2016 (lower case, no punctuation, no a/an/the, words as a bag); HotpotQA adds that yes, no and
noanswer are all or nothing.
"""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointrag.metrics import exact_match, f1, normalize, precision, recall


def published_normal_form(text: str) -> str:
    without_punctuation = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without_punctuation).split())


def published_scores(answer: str, gold: str) -> tuple[float, float, float, float]:
    """EM, F1, precision, recall."""
    answer, gold = published_normal_form(answer), published_normal_form(gold)
    em = float(answer == gold)
    if {answer, gold} & {"yes", "no", "noanswer"} and answer != gold:
        return em, 0.0, 0.0, 0.0
    answer_words, gold_words = answer.split(), gold.split()
    if not answer_words or not gold_words:  # SQuAD 2: if either is nothing, both have to be
        return em, em, em, em
    same = sum((Counter(answer_words) & Counter(gold_words)).values())
    if same == 0:
        return em, 0.0, 0.0, 0.0
    p, r = same / len(answer_words), same / len(gold_words)
    return em, 2 * p * r / (p + r), p, r


words = st.sampled_from(
    ["a", "an", "the", "The", "yes", "no", "noanswer", "cat", "Cat's", "U.S.", "1,000", "dog-day", "$"]
)
plain_text = st.one_of(
    st.lists(words, max_size=6).map(" ".join),
    st.text(alphabet=st.characters(min_codepoint=9, max_codepoint=126), max_size=20),
)


@settings(max_examples=500)
@given(answer=plain_text, golds=st.lists(plain_text, min_size=1, max_size=3))
def test_plain_english_scores_as_published(answer: str, golds: list[str]) -> None:
    each = [published_scores(answer, gold) for gold in golds]
    ours = [metric(answer, golds) for metric in (exact_match, f1, precision, recall)]
    assert ours == pytest.approx([max(column) for column in zip(*each, strict=True)])


@settings(max_examples=500)
@given(plain_text)
def test_plain_english_is_normalised_as_published(text: str) -> None:
    assert normalize(text) == published_normal_form(text)


@pytest.mark.parametrize(
    "answer, gold, em, expected_f1",
    [  # the examples that go with the rules
        ("The Beatles", "Beatles", 1, 1),
        ("a  Denver Broncos.", "Denver Broncos", 1, 1),
        ("Denver Broncos (AFC)", "the Denver Broncos", 0, 0.8),
        ("Santa Clara, California", "Santa Clara", 0, 0.8),
        ("Saint Bernadette Soubirous", "Bernadette", 0, 0.5),
        ("yes", "yes", 1, 1),
        ("yes", "yes, both", 0, 0),
        ("", "", 1, 1),
        ("the", "", 1, 1),
    ],
)
def test_published_cases(answer: str, gold: str, em: float, expected_f1: float) -> None:
    assert exact_match(answer, [gold]) == em
    assert f1(answer, [gold]) == pytest.approx(expected_f1)
