"""A question to a trained system, and its answer agent by agent.

    for part in ask(system, "Who directed Solaris?"):
        part.agent, part.episode.sub_questions, part.episode.candidates      # after every agent
    part.episode.answer, part.to_dict()                                      # the last one is done

`to_dict` is the one form in which the terminal's --json, POST /ask and the page get it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jointrag.types import Episode, Question

if TYPE_CHECKING:
    from jointrag.agents import Chain
    from jointrag.generation import LanguageModel
    from jointrag.retrieval import Retriever


@dataclass(frozen=True)
class System:
    """A checkpoint with all that it takes to answer."""

    name: str
    chain: Chain
    retriever: Retriever
    llm: LanguageModel

    @property
    def agents(self) -> list[str]:
        return [agent.name for agent in self.chain.agents]


@dataclass(frozen=True, slots=True)
class Part:
    """What there is after an agent has spoken."""

    system: str
    agent: str
    episode: Episode
    is_retrieved: bool
    """Whether the candidates have been looked for."""
    is_done: bool
    seconds: float
    """Since the question was taken up."""

    def is_read(self, candidate: int) -> bool | None:
        """Whether the generator gets this candidate; None: nobody has decided yet."""
        selected = self.episode.selected
        if selected is None:
            return True if self.is_done else None
        return candidate in selected

    def to_dict(self) -> dict[str, Any]:
        """As JSON: null stands for what is not there yet."""
        episode = self.episode
        return {
            "checkpoint": self.system,
            "question": episode.question.text,
            "agent": self.agent,
            "done": self.is_done,
            "seconds": round(self.seconds, 3),
            "sub_questions": list(episode.sub_questions),
            "passages": [
                {"number": i + 1, "id": p.id, "title": p.title, "text": p.text, "selected": self.is_read(i)}
                for i, p in enumerate(episode.candidates)
            ]
            if self.is_retrieved
            else None,
            "condensed": [{"id": p.id, "title": p.title, "text": p.text} for p in episode.condensed]
            if episode.condensed is not None
            else None,
            "answer": episode.answer if self.is_done else None,
            "turns": [{"agent": t.agent, "response": t.response, "penalty": t.penalty} for t in episode.turns],
        }


def ask(system: System, question: str) -> Iterator[Part]:
    """The parts of the answer, greedy as in evaluation. Raises ValueError where the model cannot read so much."""
    from jointrag.generation import GREEDY
    from jointrag.pipeline import answering

    agents = system.chain.agents
    num_before = len(system.chain.before_retrieval)
    started = time.monotonic()
    asked = [Question("asked", question, ())]
    for i, (episode,) in enumerate(answering(asked, system.chain, system.retriever, system.llm, GREEDY)):
        yield Part(
            system=system.name,
            agent=agents[i].name,
            episode=episode,
            is_retrieved=i + 1 >= num_before,
            is_done=i + 1 == len(agents),
            seconds=time.monotonic() - started,
        )
