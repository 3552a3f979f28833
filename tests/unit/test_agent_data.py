"""Weak labels and the examples made from them."""

import numpy as np
import pytest

from jointrag.agents import build_chain
from jointrag.config import AgentsConfig
from jointrag.types import Episode, Hit, Passage, Question
from trainers.agent_data import examples, label, reading_examples, select

PASSAGES = {
    "d": Passage("d", "", "Silent Harbor was directed by Anna Berg."),
    "b": Passage("b", "", "Anna Berg was born in Port Hale."),
    "x": Passage("x", "", "Olga Holm was born in New Rusk."),
    "y": Passage("y", "", "Porthale is a port."),
}
BRIDGE = Question(
    "q1", "Where was the director of Silent Harbor born?", ("Port Hale", "Hale"), "bridge", ("d", "b"),
    ("Who directed Silent Harbor?", "Where was Anna Berg born?"),
)  # fmt: skip
CHAIN = build_chain(AgentsConfig(num_candidates=4))


class EverythingRetriever:
    """Finds the same passages for every query, in order."""

    def search(self, queries, k):
        return [[Hit(passage, 1.0) for passage in list(PASSAGES.values())[:k]] for _ in queries]


def test_selector_label_is_the_matching_passages_and_the_closest_to_each_sub_question():
    passages = list(PASSAGES.values())
    assert select(BRIDGE, BRIDGE.sub_questions, passages) == (0, 1)
    assert select(BRIDGE, ["Was Olga Holm born in New Rusk?"], passages) == (1, 2)


def test_selector_label_matches_whole_words_and_any_answer():
    question = Question("q", "?", ("London", "Hale"))
    selected = select(question, ["Where?"], list(PASSAGES.values()))
    assert 1 in selected
    assert 3 not in selected


def test_selector_label_for_yes_no_goes_by_the_words():
    question = Question("q", "Was Olga Holm born in New Rusk?", ("no",))
    assert select(question, [question.text], list(PASSAGES.values())) == (2,)


def test_examples_are_what_the_agents_would_be_asked():
    (episode,) = label([BRIDGE], CHAIN, EverythingRetriever())
    rewriter, selector, generator = examples([episode], CHAIN)
    assert rewriter.prompt == CHAIN.agents[0].prompt(Episode(BRIDGE, sub_questions=(BRIDGE.text,)))
    assert rewriter.response == "Who directed Silent Harbor?\nWhere was Anna Berg born?"
    assert selector.response == "Document0,Document1"
    assert "Olga" in selector.prompt.content
    assert "Olga" not in generator.prompt.content
    assert generator.response == "Port Hale"


def test_a_question_without_decomposition_is_its_own_rewrite():
    plain = Question("q2", "Who is Anna Berg?", ("a director",))
    (episode,) = label([plain], CHAIN, EverythingRetriever())
    assert next(iter(examples([episode], CHAIN))).response == plain.text


def test_the_generator_does_not_learn_to_invent():
    unknown = Question("q3", "Who founded Rome?", ("Romulus",))
    (episode,) = label([unknown], CHAIN, EverythingRetriever())
    assert [example.prompt.agent for example in examples([episode], CHAIN)] == ["rewriter", "selector"]


def test_reading_examples_always_show_the_gold_passages():
    (episode,) = label([BRIDGE], CHAIN, EverythingRetriever())
    found = list(reading_examples([episode], PASSAGES, CHAIN, 20, np.random.default_rng(0)))
    assert len(found) == 20
    for example in found:
        assert "Silent Harbor was directed by" in example.prompt.content
        assert "born in Port Hale" in example.prompt.content
    assert {example.prompt.agent for example in found} == {"selector", "generator"}


def test_reading_examples_need_gold_passages():
    plain = Question("q", "Who?", ("x",))
    (episode,) = label([plain], CHAIN, EverythingRetriever())
    with pytest.raises(ValueError, match="num_reading_examples"):
        list(reading_examples([episode], PASSAGES, CHAIN, 1, np.random.default_rng(0)))
