"""The selector: picks the candidates that help to answer, by number. It may keep none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jointrag.config import SelectorConfig
from jointrag.types import Episode, Prompt

INSTRUCTIONS = (
    "You choose evidence. Name every document that helps to answer the question, separated by commas, for example "
    "Document0,Document3. Write nothing else; write nothing at all if no document helps."
)


@dataclass(frozen=True)
class Selector:
    config: SelectorConfig
    name = "selector"
    reads_passages = True

    @property
    def max_new_tokens(self) -> int:
        return self.config.max_new_tokens

    def prompt(self, episode: Episode) -> Prompt:
        names = _names(len(episode.candidates))
        documents = [f"{name}: {p.contents}" for name, p in zip(names, episode.candidates, strict=True)]
        return Prompt(self.name, INSTRUCTIONS, "\n".join([episode.question.text, *documents]), choices=names)

    def read(self, episode: Episode, response: str) -> tuple[Episode, float]:
        """Known documents are kept once each, in the order written; anything else in the list costs the penalty."""
        position = {name: i for i, name in enumerate(_names(len(episode.candidates)))}
        written = [item.strip() for item in response.split(",")] if response.strip() else []
        kept = tuple(dict.fromkeys(position[item] for item in written if item in position))
        well_formed = len(kept) == len(written)
        return replace(episode, selected=kept), 0.0 if well_formed else self.config.penalty

    @staticmethod
    def write(positions: Sequence[int]) -> str:
        """The response that `read` turns into these positions."""
        return ",".join(f"Document{i}" for i in positions)


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"Document{i}" for i in range(count))
