"""The generator: answers from the selected passages; with none, from what it knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jointrag.config import GeneratorConfig
from jointrag.types import Episode, Prompt

INSTRUCTIONS = (
    "You answer questions. Give the shortest answer that is complete: a name, a date, a number, yes or no. Rely on the "
    "passages where there are any. Write only the answer."
)


@dataclass(frozen=True)
class Generator:
    config: GeneratorConfig
    name = "generator"
    reads_passages = True

    @property
    def max_new_tokens(self) -> int:
        return self.config.max_new_tokens

    def prompt(self, episode: Episode) -> Prompt:
        passages = [f"Passage: {passage.contents}" for passage in episode.passages]
        return Prompt(self.name, INSTRUCTIONS, "\n".join([episode.question.text, *passages]))

    def read(self, episode: Episode, response: str) -> tuple[Episode, float]:
        well_formed = 0 < len(response.split()) <= self.config.max_words
        return replace(episode, answer=response.strip()), 0.0 if well_formed else self.config.penalty

    @staticmethod
    def write(answer: str) -> str:
        """The response that `read` turns into this answer."""
        return answer
