"""Each agent: what it asks, how it reads the answer, what bad form costs, what it should have said. And the chain."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from jointrag.agents import AGENTS, build_chain
from jointrag.agents.generator import Generator, GeneratorConfig
from jointrag.agents.rewriter import Rewriter, RewriterConfig
from jointrag.agents.selector import Selector, SelectorConfig
from jointrag.config import AgentsConfig
from jointrag.types import Episode, Passage, Question

QUESTION = Question("q", "Who founded the club that Anna plays for?", ("Ben",))
PASSAGES = tuple(Passage(f"p{i}", f"Title {i}", f"Text {i}.") for i in range(3))
EPISODE = Episode(QUESTION, sub_questions=(QUESTION.text,), candidates=PASSAGES)


def test_every_registered_agent_builds():
    chain = build_chain(AgentsConfig())
    assert [agent.name for agent in chain.agents] == list(AGENTS)
    assert [agent.name for agent in chain.before_retrieval] == ["rewriter"]


@pytest.mark.parametrize(
    "chain",
    [
        ("generator",),
        ("rewriter", "generator"),
        ("selector", "generator"),
        ("rewriter", "selector", "generator"),
    ],
)
def test_any_subset_that_answers_is_a_chain(chain):
    agents = build_chain(AgentsConfig(chain=chain))
    assert tuple(agent.name for agent in (*agents.before_retrieval, *agents.after_retrieval)) == chain


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ((), "end with an agent that gives the answer: generator"),
        (("rewriter", "selector"), "end with an agent that gives the answer: generator"),
        (("generator", "selector"), "end with an agent that gives the answer: generator"),
        (("generator", "generator"), "names 'generator' twice"),
        (("judge", "generator"), "unknown agent 'judge' in chain; known agents: rewriter, selector, generator"),
        (("selector", "rewriter", "generator"), "put 'rewriter' before 'selector' in the chain"),
    ],
)
def test_impossible_chains_are_refused(chain, message):
    with pytest.raises(ValidationError, match=message):
        AgentsConfig(chain=chain)


def test_the_settings_survive_the_way_to_another_process():
    config = AgentsConfig.model_validate({"chain": ["rewriter", "generator"], "rewriter": {"max_new_tokens": 24}})
    assert config.of("rewriter") == RewriterConfig(max_new_tokens=24)
    assert AgentsConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(ValidationError, match="frozen"):
        config.rewriter = RewriterConfig()  # type: ignore[attr-defined]


def test_an_agent_outside_the_chain_makes_no_difference_to_what_is_written_down():
    with_it, without = (
        AgentsConfig.model_validate({"chain": ("generator",), "selector": {"penalty": penalty}}).model_dump()
        for penalty in (-0.25, -0.5)
    )
    assert with_it == without
    assert set(without) == {"chain", "num_candidates", "generator"}


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"rewriterr": {}}, ("rewriterr",)),
        ({"rewriter": {"max_new_tokenz": 1}}, ("rewriter", "max_new_tokenz")),
        ({"chain": ["generator"], "selector": {"penalty": 1}}, ("selector", "penalty")),
    ],
)
def test_mistakes_say_where_they_are(settings, where):
    with pytest.raises(ValidationError) as caught:
        AgentsConfig.model_validate(settings)
    assert [error["loc"] for error in caught.value.errors()] == [where]


class TestRewriter:
    agent = Rewriter(RewriterConfig(max_sub_questions=2, max_characters=60, penalty=-0.5))

    def test_one_sub_question_a_line(self):
        episode, penalty = self.agent.read(EPISODE, "Which club?\n\n Who founded it? ")
        assert episode.sub_questions == ("Which club?", "Who founded it?")
        assert penalty == 0

    def test_too_many_cost_the_penalty_although_they_are_cut(self):
        episode, penalty = self.agent.read(EPISODE, "a\nb\nc")
        assert episode.sub_questions == ("a", "b")
        assert penalty == -0.5

    def test_too_long_costs_the_penalty(self):
        assert self.agent.read(EPISODE, "x" * 61)[1] == -0.5

    def test_nothing_written_falls_back_to_the_question_and_costs_the_penalty(self):
        episode, penalty = self.agent.read(EPISODE, "  \n")
        assert episode.sub_questions == (QUESTION.text,)
        assert penalty == -0.5

    def test_label_is_the_decomposition_and_what_read_makes_of_it(self):
        known = Episode(Question("q", "?", ("Ben",), sub_questions=("a?", "b?", "c?")))
        label = self.agent.label(known, "decomposition")
        assert label == "a?\nb?"  # no more than it may write
        assert self.agent.read(known, label) == (replace(known, sub_questions=("a?", "b?")), 0)

    def test_label_without_a_decomposition_is_the_question(self):
        assert self.agent.label(EPISODE, "decomposition") is None
        assert self.agent.label(EPISODE, "identity") == QUESTION.text


class TestSelector:
    agent = Selector(SelectorConfig(penalty=-1.0))

    def test_prompt_shows_every_candidate_and_allows_exactly_them(self):
        prompt = self.agent.prompt(EPISODE)
        assert prompt.choices == ("Document0", "Document1", "Document2")
        assert all(passage.text in prompt.content for passage in PASSAGES)

    def test_read_undoes_write(self):
        episode, penalty = self.agent.read(EPISODE, self.agent.write([2, 0]))
        assert episode.selected == (2, 0)
        assert [p.id for p in episode.passages] == ["p2", "p0"]
        assert penalty == 0

    def test_none_is_a_valid_choice(self):
        episode, penalty = self.agent.read(EPISODE, "")
        assert episode.selected == ()
        assert episode.passages == ()
        assert penalty == 0

    @pytest.mark.parametrize("response", ["Document0,Document0", "Document7", "the first one", "Document1,,Document2"])
    def test_bad_lists_cost_the_penalty(self, response):
        assert self.agent.read(EPISODE, response)[1] == -1.0

    def test_what_is_valid_in_a_bad_list_is_kept_once(self):
        assert self.agent.read(EPISODE, "Document1,Document9,Document1")[0].selected == (1,)


class TestSelectorLabel:
    agent = Selector(SelectorConfig())
    passages = (
        Passage("d", "", "Silent Harbor was directed by Anna Berg."),
        Passage("b", "", "Anna Berg was born in Port Hale."),
        Passage("x", "", "Olga Holm was born in New Rusk."),
        Passage("y", "", "Porthale is a port."),
    )

    def label(self, answers, *sub_questions):
        return self.agent.label(Episode(Question("q", "?", answers), sub_questions, self.passages), "lexical")

    def test_the_matching_passages_and_the_closest_to_each_sub_question(self):
        answers = ("Port Hale", "Hale")
        found = self.label(answers, "Who directed Silent Harbor?", "Where was Anna Berg born?")
        assert found == "Document0,Document1"
        assert self.label(answers, "Was Olga Holm born in New Rusk?") == "Document1,Document2"

    def test_whole_words_and_any_answer(self):
        assert self.label(("London", "Hale"), "Who directed Silent Harbor?") == "Document0,Document1"

    def test_yes_and_no_go_by_the_words(self):
        assert self.label(("no",), "Was Olga Holm born in New Rusk?") == "Document2"

    def test_no_candidates_no_choice(self):
        assert self.agent.label(Episode(QUESTION, ("Who?",)), "lexical") == ""


class TestGenerator:
    agent = Generator(GeneratorConfig(max_words=3, penalty=-0.5))

    def test_reads_the_selected_passages_only(self):
        selected, _ = TestSelector.agent.read(EPISODE, "Document1")
        content = self.agent.prompt(selected).content
        assert "Text 1." in content
        assert "Text 0." not in content

    def test_reads_all_candidates_without_a_selector(self):
        assert all(p.text in self.agent.prompt(EPISODE).content for p in PASSAGES)

    @pytest.mark.parametrize(("response", "penalty"), [("Ben", 0), ("a b c", 0), ("a b c d", -0.5), ("", -0.5)])
    def test_penalty_for_long_and_empty_answers(self, response, penalty):
        episode, found = self.agent.read(EPISODE, response)
        assert (episode.answer, found) == (response, penalty)

    def test_label_is_the_answer_where_a_passage_read_holds_it(self):
        holds = replace(EPISODE, candidates=(*PASSAGES, Passage("b", "", "Founded by Ben in 1901.")))
        assert self.agent.label(holds, "answer") == "Ben"
        assert self.agent.label(replace(holds, selected=(0,)), "answer") is None
        assert self.agent.label(replace(holds, question=Question("q", "?", ("no",)), selected=(0,)), "answer") == "no"
