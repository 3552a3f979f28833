"""The selector: picks the candidates that help to answer, by number. It may keep none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import NonPositiveFloat, PositiveInt

from jointrag.matching import content_words, holds_answer, terms
from jointrag.metrics import VERDICTS, normalize
from jointrag.section import Section
from jointrag.types import Episode, Prompt

INSTRUCTIONS = (
    "You choose evidence. Name every document that helps to answer the question, separated by commas, for example "
    "Document0,Document3. Write nothing else; write nothing at all if no document helps."
)


class SelectorConfig(Section):
    penalty: NonPositiveFloat = -1.0
    """For a malformed list, an unknown document or one named twice."""
    max_new_tokens: PositiveInt = 32


@dataclass(frozen=True)
class Selector:
    config: SelectorConfig
    name = "selector"
    section = SelectorConfig
    reads_passages = True
    gives_answer = False
    label_sources = ("gold", "lexical")

    @property
    def max_new_tokens(self) -> int:
        return self.config.max_new_tokens

    def prompt(self, episode: Episode) -> Prompt:
        names = _names(len(episode.candidates))
        documents = tuple(f"{name}: {p.contents}" for name, p in zip(names, episode.candidates, strict=True))
        return Prompt(self.name, INSTRUCTIONS, episode.question.text, names, documents)

    def read(self, episode: Episode, response: str) -> tuple[Episode, float]:
        """Known documents are kept once each, in the order written; anything else in the list costs the penalty."""
        position = {name: i for i, name in enumerate(_names(len(episode.candidates)))}
        written = [item.strip() for item in response.split(",")] if response.strip() else []
        kept = tuple(dict.fromkeys(position[item] for item in written if item in position))
        well_formed = len(kept) == len(written)
        return replace(episode, selected=kept), 0.0 if well_formed else self.config.penalty

    def label(self, episode: Episode, source: str) -> str | None:
        """The gold passages among the candidates, where the data set names any. Or, weak: the candidates that contain
        an answer, and the closest to each sub-question by shared words. Yes and no are in no passage: there, only the
        closest ones."""
        if source == "gold":
            gold = set(episode.question.gold_passages)
            return self.write([i for i, p in enumerate(episode.candidates) if p.id in gold]) if gold else None
        answers, texts = episode.question.answers, [p.contents for p in episode.candidates]
        is_verdict = all(normalize(answer) in VERDICTS for answer in answers)
        words_of = content_words if is_verdict else terms
        words = [words_of(text) for text in texts]
        chosen = {_closest(words_of(asked), words) for asked in episode.sub_questions if words}
        if not is_verdict:
            chosen |= {i for i, text in enumerate(texts) if holds_answer(text, answers)}
        return self.write(sorted(chosen))

    @staticmethod
    def write(positions: Sequence[int]) -> str:
        """The response that `read` turns into these positions."""
        return ",".join(f"Document{i}" for i in positions)


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"Document{i}" for i in range(count))


def _closest(wanted: set[str], words: Sequence[set[str]]) -> int:
    """The passage, given as its words, that shares most with those wanted; the first of several."""
    return max(range(len(words)), key=lambda i: (len(wanted & words[i]), -i))
