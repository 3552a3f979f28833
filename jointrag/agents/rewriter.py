"""The query rewriter: splits a question into sub-questions that can be searched for on their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import NonPositiveFloat, PositiveInt

from jointrag.section import Section
from jointrag.types import Episode, Prompt

INSTRUCTIONS = (
    "You prepare a search. Split the question into at most {most} simpler questions, each of which a single document "
    "could answer and each understandable on its own. If it is simple already, repeat it. Write one question per line "
    "and nothing else."
)


class RewriterConfig(Section):
    max_sub_questions: PositiveInt = 4
    max_characters: PositiveInt = 300
    penalty: NonPositiveFloat = -0.5
    """For too many sub-questions, too many characters, or none at all."""
    max_new_tokens: PositiveInt = 96


@dataclass(frozen=True)
class Rewriter:
    config: RewriterConfig
    name = "rewriter"
    section = RewriterConfig
    reads_passages = False
    gives_answer = False
    label_sources = ("decomposition", "identity")

    @property
    def max_new_tokens(self) -> int:
        return self.config.max_new_tokens

    def prompt(self, episode: Episode) -> Prompt:
        instructions = INSTRUCTIONS.format(most=self.config.max_sub_questions)
        return Prompt(self.name, instructions, episode.question.text)

    def read(self, episode: Episode, response: str) -> tuple[Episode, float]:
        """One sub-question a line. The penalty looks at what was written, not at what is kept of it."""
        lines = [line.strip() for line in response.splitlines() if line.strip()]
        well_formed = 0 < len(lines) <= self.config.max_sub_questions and len(response) <= self.config.max_characters
        kept = tuple(dict.fromkeys(lines))[: self.config.max_sub_questions]
        # nothing written: the question itself is searched for, as if there were no rewriter
        episode = replace(episode, sub_questions=kept or (episode.question.text,))
        return episode, 0.0 if well_formed else self.config.penalty

    def label(self, episode: Episode, source: str) -> str | None:
        """The data set's decomposition, where it has one, or the question itself."""
        if source == "identity":
            return episode.question.text
        return "\n".join(episode.question.sub_questions[: self.config.max_sub_questions]) or None
