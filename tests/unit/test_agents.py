"""Each agent: what it asks, how it reads the answer, what bad form costs."""

import pytest

from jointrag.agents import AGENTS, build_chain
from jointrag.agents.generator import Generator
from jointrag.agents.rewriter import Rewriter
from jointrag.agents.selector import Selector
from jointrag.config import AgentsConfig, GeneratorConfig, RewriterConfig, SelectorConfig
from jointrag.types import Episode, Passage, Question

QUESTION = Question("q", "Who founded the club that Anna plays for?", ("Ben",))
PASSAGES = tuple(Passage(f"p{i}", f"Title {i}", f"Text {i}.") for i in range(3))
EPISODE = Episode(QUESTION, sub_questions=(QUESTION.text,), candidates=PASSAGES)


def test_every_registered_agent_builds():
    chain = build_chain(AgentsConfig())
    assert [agent.name for agent in chain.agents] == list(AGENTS)
    assert [agent.name for agent in chain.before_retrieval] == ["rewriter"]


@pytest.mark.parametrize("chain", [("selector",), ("generator", "rewriter"), ("rewriter", "generator", "generator")])
def test_impossible_chains_are_refused(chain):
    with pytest.raises(ValueError, match="chain"):
        AgentsConfig(chain=chain)


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

    def test_read_undoes_write(self):
        assert self.agent.read(EPISODE, self.agent.write(["a?", "b?"]))[0].sub_questions == ("a?", "b?")


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
