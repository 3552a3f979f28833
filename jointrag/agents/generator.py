"""The generator: answers from the selected passages; with none, from what it knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import NonPositiveFloat, PositiveInt

from jointrag.matching import holds_answer
from jointrag.metrics import VERDICTS, normalize
from jointrag.section import Section
from jointrag.types import Episode, Prompt

INSTRUCTIONS = (
    "You answer questions. Give the shortest answer that is complete: a name, a date, a number, yes or no. Rely on the "
    "passages where there are any. Write only the answer."
)


class GeneratorConfig(Section):
    max_words: PositiveInt = 30
    penalty: NonPositiveFloat = -0.5
    """For an answer of more than max_words words, or an empty one."""
    max_new_tokens: PositiveInt = 48


@dataclass(frozen=True)
class Generator:
    config: GeneratorConfig
    name = "generator"
    section = GeneratorConfig
    reads_passages = True
    gives_answer = True
    label_sources = ("answer",)

    @property
    def max_new_tokens(self) -> int:
        return self.config.max_new_tokens

    def prompt(self, episode: Episode) -> Prompt:
        passages = tuple(f"Passage: {passage.contents}" for passage in episode.passages)
        return Prompt(self.name, INSTRUCTIONS, episode.question.text, passages=passages)

    def read(self, episode: Episode, response: str) -> tuple[Episode, float]:
        well_formed = 0 < len(response.split()) <= self.config.max_words
        return replace(episode, answer=response.strip()), 0.0 if well_formed else self.config.penalty

    def label(self, episode: Episode, source: str) -> str | None:
        """The gold answer. None where no passage holds it: the generator would learn to invent one."""
        answers = episode.question.answers
        is_verdict = any(normalize(answer) in VERDICTS for answer in answers)  # yes and no are in no passage
        return answers[0] if is_verdict or any(holds_answer(p.contents, answers) for p in episode.passages) else None
