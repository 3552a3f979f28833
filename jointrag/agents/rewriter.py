"""The query rewriter: splits a question into sub-questions that can be searched for on their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jointrag.config import RewriterConfig
from jointrag.types import Episode, Prompt

INSTRUCTIONS = (
    "You prepare a search. Split the question into at most {most} simpler questions, each of which a single document "
    "could answer and each understandable on its own. If it is simple already, repeat it. Write one question per line "
    "and nothing else."
)


@dataclass(frozen=True)
class Rewriter:
    config: RewriterConfig
    name = "rewriter"
    reads_passages = False

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

    @staticmethod
    def write(sub_questions: Sequence[str]) -> str:
        """The response that `read` turns into these sub-questions."""
        return "\n".join(sub_questions)
