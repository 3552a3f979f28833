from __future__ import annotations

import doctest
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointrag import metrics
from jointrag.metrics import METRICS, accuracy, exact_match, f1, normalize, precision, recall


def test_doctests() -> None:
    failed, tried = doctest.testmod(metrics)
    assert tried > 5
    assert failed == 0


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The  Cat,\tan\nanimal!", "cat animal"),
        ("U.S.A.", "usa"),
        ("well-known", "wellknown"),  # as SQuAD: punctuation goes, words join
        ("theatre another", "theatre another"),  # articles only as whole words
        ("$5 + 3%", "5 3"),
        ("Zoë Müller’s café", "zoë müllers café"),
        ("Straße", "strasse"),
        ("«¿Qué?» – 1990—1995…", "qué 19901995"),
        ("Ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("北京 大学（Peking University）", "北 京 大 学 peking university"),
        ("スタジオ・ジブリ", "ス タ ジ オ ジ ブ リ"),
        ("서울 특별시", "서울 특별시"),  # Korean is written with spaces
        ("Война и мир", "война и мир"),
        (" ?! ", ""),
        ("the", ""),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == unicodedata.normalize("NFKC", expected)


def test_composed_and_decomposed_accents_are_equal_but_not_dropped() -> None:
    assert normalize(unicodedata.normalize("NFD", "Café")) == normalize(unicodedata.normalize("NFC", "Café"))
    assert exact_match("Cafe", ["Café"]) == 0.0


@pytest.mark.parametrize(
    "answer, golds, em, f, acc, p, r",
    [
        ("Paris", ["Paris"], 1, 1, 1, 1, 1),
        ("the city of Paris, France", ["Paris"], 0, 0.4, 1, 0.25, 1),  # 4 words without the article
        ("Paris", ["Paris France"], 0, 2 / 3, 0, 1, 0.5),
        ("Lyon", ["Paris"], 0, 0, 0, 0, 0),
        ("b b c", ["b c c"], 0, 2 / 3, 0, 2 / 3, 2 / 3),  # words count as often as they occur: b, c shared
        ("Paris France", ["Lyon", "Paris", "Paris, France"], 1, 1, 1, 1, 1),  # the best gold counts
        ("ab", ["a b"], 0, 0, 0, 0, 0),
        ("New Yorker", ["New York"], 0, 0.5, 0, 0.5, 0.5),  # whole words only
        ("York New", ["New York"], 0, 1, 0, 1, 1),  # in order only
        ("中国北京市", ["北京"], 0, 4 / 7, 1, 0.4, 1),
        ("京北", ["北京"], 0, 1, 0, 1, 1),
        ("東京タワー", ["東京 タワー"], 1, 1, 1, 1, 1),
    ],
)
def test_hand_computed(answer: str, golds: list[str], em: float, f: float, acc: float, p: float, r: float) -> None:
    assert exact_match(answer, golds) == em
    assert f1(answer, golds) == pytest.approx(f)
    assert accuracy(answer, golds) == acc
    assert precision(answer, golds) == pytest.approx(p)
    assert recall(answer, golds) == pytest.approx(r)


@pytest.mark.parametrize(
    "answer, gold, f, acc",
    [
        ("yes", "Yes.", 1, 1),
        ("no", "yes", 0, 0),
        ("yes it is", "yes", 0, 1),  # without the rule F1 would be 0.5
        ("no", "no country for old men", 0, 0),
        ("no country", "no", 0, 1),
        ("yes and no", "yes", 0, 0),  # accuracy cannot be had by saying both
        ("noanswer", "no answer", 0, 0),
        ("noanswer", "noanswer", 1, 1),
    ],
)
def test_verdicts(answer: str, gold: str, f: float, acc: float) -> None:
    assert f1(answer, [gold]) == precision(answer, [gold]) == recall(answer, [gold]) == f
    assert accuracy(answer, [gold]) == acc


def test_several_golds_are_not_joined() -> None:
    assert f1("red blue", ["red", "blue"]) == pytest.approx(2 / 3)
    assert exact_match("red blue", ["red", "blue"]) == 0.0


@pytest.mark.parametrize("metric", [*METRICS.values(), precision, recall])
def test_nothing_to_compare(metric: metrics.Metric) -> None:
    assert metric("", ["Paris"]) == 0.0
    assert metric("the", ["Paris"]) == 0.0
    assert metric("Paris", [""]) == 0.0
    assert metric("", [""]) == 1.0
    with pytest.raises(ValueError, match="no gold answer"):
        metric("Paris", [])
    with pytest.raises(TypeError, match="'Paris'"):
        metric("Paris", "Paris")


words = st.text(alphabet="ab京é .-,'Tthe\u0301", max_size=12)


@given(answer=words, golds=st.lists(words, min_size=1, max_size=3))
def test_invariants(answer: str, golds: list[str]) -> None:
    assert normalize(normalize(answer)) == normalize(answer)
    for metric in (*METRICS.values(), precision, recall):
        assert 0 <= metric(answer, golds) <= 1
        assert metric(answer, [*golds, answer]) == 1
        assert metric(answer, golds) == max(metric(answer, [gold]) for gold in golds)
    assert exact_match(answer, golds) <= f1(answer, golds)
    assert exact_match(answer, golds) <= accuracy(answer, golds)


@settings(max_examples=1_000)
@given(st.text(max_size=20))
def test_normalize_is_idempotent(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)
