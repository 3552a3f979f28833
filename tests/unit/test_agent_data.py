"""Labelling: the chain with the agents' own labels, and the examples it leaves. The labels: test_agents.py."""

from dataclasses import replace

import numpy as np
import pytest

from jointrag.agents import build_chain
from jointrag.config import AgentsConfig
from jointrag.generation import GREEDY, Completion
from jointrag.pipeline import answer
from jointrag.types import Episode, Hit, Passage, Question
from trainers.agent_data import reading_examples
from trainers.data_card import DataCard
from trainers.labelling import label

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


def test_examples_are_what_the_agents_would_be_asked():
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    rewriter, selector, generator = labelled.examples
    assert [e.id for e in labelled.examples] == ["q1/rewriter", "q1/selector", "q1/generator"]
    assert rewriter.prompt == CHAIN.agents[0].prompt(Episode(BRIDGE, sub_questions=(BRIDGE.text,)))
    assert rewriter.response == "Who directed Silent Harbor?\nWhere was Anna Berg born?"
    assert selector.response == "Document0,Document1"
    assert "Olga" in selector.prompt.content
    assert "Olga" not in generator.prompt.content
    assert generator.response == "Port Hale"


def test_a_labelled_episode_went_through_the_chain():
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    episode = labelled.episode
    assert episode.sub_questions == BRIDGE.sub_questions
    assert [p.id for p in episode.passages] == ["d", "b"]
    assert episode.answer == "Port Hale"


def test_labelling_is_the_chain_with_labels_for_words():
    """A model that says the labels makes the same episodes; its turns aside."""

    class Labels:
        def generate(self, prompts, max_new_tokens, sampling):
            return [Completion(labels[prompt.agent, prompt.content]) for prompt in prompts]

    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    labels = {(e.prompt.agent, e.prompt.content): e.response for e in labelled.examples}
    (answered,) = answer([BRIDGE], CHAIN, EverythingRetriever(), Labels(), GREEDY)
    assert replace(answered, turns=()) == labelled.episode


@pytest.mark.parametrize("chain", [("generator",), ("rewriter", "generator"), ("selector", "generator")])
def test_every_agent_of_a_shorter_chain_learns(chain):
    (labelled,) = label([BRIDGE], build_chain(AgentsConfig(chain=chain)), EverythingRetriever())
    assert tuple(example.prompt.agent for example in labelled.examples) == chain


def test_the_generator_does_not_learn_to_invent():
    unknown = Question("q3", "Who founded Rome?", ("Romulus",))
    (labelled,) = label([unknown], CHAIN, EverythingRetriever())
    assert [example.prompt.agent for example in labelled.examples] == ["rewriter", "selector"]
    assert labelled.episode.answer == ""


def test_reading_examples_always_show_the_gold_passages():
    (labelled,) = label([BRIDGE], CHAIN, EverythingRetriever())
    found = list(reading_examples([labelled.episode], PASSAGES, CHAIN, 20, np.random.default_rng(0)))
    assert len(found) == 20
    for example in found:
        assert "Silent Harbor was directed by" in example.prompt.content
        assert "born in Port Hale" in example.prompt.content
    assert {example.prompt.agent for example in found} == {"selector", "generator"}


def test_reading_examples_need_gold_passages():
    with pytest.raises(ValueError, match="num_reading_examples"):
        list(reading_examples([], PASSAGES, CHAIN, 1, np.random.default_rng(0)))


def test_the_data_card_says_what_there_is_and_how_good_the_labels_are():
    plain = Question("q9", "Who is Olga Holm?", ("a person",), "", ("x",))
    labelled = list(label([BRIDGE, plain], CHAIN, EverythingRetriever()))
    found_by_question = ["b", "x", "y", "z", "d"]
    card = DataCard(seed=0)
    for one in labelled:
        card.add(one, found_by_question)
    text = card.text({"warm_start": 5, "questions": 2})
    assert "| warm_start | 5 |" in text
    assert "| rewriter | 2 | 100% | decomposition 50%, identity 50% |" in text
    assert "| selector | 2 | 100% | gold 100% |" in text
    assert "| generator | 1 | 50% | answer 100% |" in text
    assert "| the question itself | 75.0 | 100.0 |" in text  # at 2 and 5; 10 were not asked for
    assert "| its sub-questions | 50.0 | 100.0 |" in text
    assert "| bridge | 1 | 1 | 2.00 | 100% | 100% | 100% | 100% |" in text
    assert "- 0 (chosen, gold): Silent Harbor was directed by Anna Berg." in text
    assert "learns to answer: (nothing: no passage holds the answer)" in text
    found = card.metrics()
    assert found["agent_data/gold_found"] == 1.0
    assert found["agent_data/label_recall"] == 1.0
    assert found["agent_data/recall_at_2"] == 0.75
    assert DataCard(seed=0).metrics() == {}
