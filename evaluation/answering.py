"""A system answers all questions, batch by batch; what is answered is on disk, and not answered again after a kill.

    answered = answer_all(system, speaker, agents, questions, HttpRetriever(url), batch_size=128, journal=path)

Episodes are kept without token ids and log-probabilities, which would make the files ten times as large.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from evaluation.costs import Meter, Usage
from evaluation.journal import Journal
from evaluation.systems import Nothing, Speaker, System
from jointrag.config import AgentsConfig
from jointrag.progress import progress
from jointrag.retrieval import Retriever
from jointrag.types import Episode, Question

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question's way through a system, and what it cost."""

    episode: Episode
    usage: Usage


def answer_all(
    system: System,
    speaker: Speaker,
    agents: AgentsConfig,
    questions: Sequence[Question],
    retriever: Retriever,
    *,
    batch_size: int,
    journal: Path,
) -> list[Answered]:
    """One per question, in their order. The same ones whether or not it was interrupted."""
    from jointrag.generation import GREEDY, LocalLM
    from jointrag.pipeline import answer

    chain = system.chain(agents)
    source = Nothing() if system.kind == "no_retrieval" else retriever

    def batch(start: int) -> list[Answered]:
        meter = Meter(speaker.llm, source)
        num_cut = speaker.llm.count.cut if isinstance(speaker.llm, LocalLM) else 0
        episodes = answer(questions[start : start + batch_size], chain, meter.retriever, meter.llm, GREEDY)
        if isinstance(speaker.llm, LocalLM) and (new := speaker.llm.count.cut - num_cut):
            logger.warning(
                "%s: %d prompts were too long for language_model.max_length, so passages in them were cut",
                *(system.name, new),
            )
        usages = meter.usages(episodes)
        return [Answered(without_tokens(e), usage) for e, usage in zip(episodes, usages, strict=True)]

    belongs_to = fingerprint(questions, asdict(system), agents.model_dump(mode="json"), batch_size)
    return in_batches(batch, len(questions), batch_size, journal, Answered, belongs_to, f"evaluate {system.name}")


def in_batches(
    make: Callable[[int], list[Item]],
    total: int,
    batch_size: int,
    path: Path,
    cls: type[Item],
    belongs_to: str,
    what: str,
) -> list[Item]:
    """`make(start)` for every batch that the journal at `path` does not have yet, and all that it has then."""
    with Journal(path, cls, belongs_to=belongs_to, group=batch_size, total=total) as journal:

        def items() -> Iterator[Item]:
            yield from journal.items[:total]
            for start in range(len(journal.items), total, batch_size):
                journal.append(made := make(start))
                yield from made

        return list(progress(items(), what, total=total))


def fingerprint(questions: Sequence[Question], *decides: object) -> str:
    """What a journal's lines depend on."""
    content = json.dumps([[asdict(question) for question in questions], *decides], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def without_tokens(episode: Episode) -> Episode:
    """The texts alone."""
    turns = tuple(
        replace(turn, prompt_ids=(), response_ids=(), logprobs=(), values=(), support=()) for turn in episode.turns
    )
    return replace(episode, turns=turns)
