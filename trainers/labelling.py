"""How a labelled question should go through the chain: what each agent would say, and from where that is known.

Each agent is asked for its prompt and its label when its turn in the chain comes, and the chain goes on as if it had
said just that: the same `walk` as in use, with labels in place of a model's words. A label comes from the most trusted
source that has one: the agent's own (`Agent.label_sources`), or "teacher", a larger model that is asked the agent's own
prompt.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from jointrag.agents import Agent, Chain
from jointrag.agents.selector import Selector
from jointrag.config import AnswerContexts
from jointrag.generation import GREEDY, LanguageModel
from jointrag.pipeline import walk
from jointrag.retrieval import Retriever
from jointrag.types import Episode, Example, Passage, Question

QUESTIONS_PER_REQUEST = 256
TEACHER = "teacher"
T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last of what is left (itertools.batched, from Python 3.12 on)."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


class Passages(Protocol):
    def __getitem__(self, id: str, /) -> Passage: ...


@dataclass(frozen=True)
class Labels:
    """Where labels come from."""

    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By agent, the most trusted first; its own order for an agent that is not here."""
    teacher: LanguageModel | None = None
    contexts: AnswerContexts = field(default_factory=lambda: AnswerContexts(selected=1, gold=0, nothing=0))
    corpus: Passages | None = None
    """For gold passages that the retriever did not find; without it they are not read."""
    shuffle: bool = False
    """Put the candidates into random order before they are read."""
    seed: int = 0


@dataclass(frozen=True)
class Pair:
    """A response that is better than another to the same prompt."""

    id: str
    example: Example
    rejected: str


@dataclass(frozen=True)
class Labelled:
    """An episode as it should go, and what the agents learn from it, in the order in which they speak."""

    episode: Episode
    examples: tuple[Example, ...]
    sources: tuple[str, ...]  # per example, where it came from
    found: tuple[str, ...]  # ids of the candidates, in the retriever's order
    pair: Pair | None = None  # of the selector's
    weak: tuple[str, ...] | None = None  # ids that its lexical label chooses, where gold passages are known


def label(
    questions: Iterable[Question], chain: Chain, retriever: Retriever, labels: Labels = Labels()
) -> Iterator[Labelled]:
    """Every question's way through the chain when each agent says its label."""
    for batch in batched(questions, QUESTIONS_PER_REQUEST):
        learned = {question.id: _Learned() for question in batch}
        say = partial(_say_labels, chain=chain, labels=labels, learned=learned)
        *_, episodes = walk(batch, chain, retriever, say)
        for episode in episodes:
            of_it = learned[episode.question.id]
            yield Labelled(episode, tuple(of_it.examples), tuple(of_it.sources), of_it.found, of_it.pair, of_it.weak)


@dataclass
class _Learned:
    """What is known about one question so far."""

    examples: list[Example] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    found: tuple[str, ...] = ()
    pair: Pair | None = None
    weak: tuple[str, ...] | None = None


def _say_labels(
    agent: Agent, episodes: Sequence[Episode], *, chain: Chain, labels: Labels, learned: Mapping[str, _Learned]
) -> list[Episode]:
    """Every episode with the agent's label read; the examples are added to `learned`, by question id. Where the agent
    has no label, the episode goes on without it."""
    if chain.after_retrieval and agent is chain.after_retrieval[0]:
        for episode in episodes:
            learned[episode.question.id].found = tuple(passage.id for passage in episode.candidates)
        if labels.shuffle:
            episodes = [_shuffled(episode, labels.seed) for episode in episodes]
    spoken = []
    for episode, known in zip(episodes, _known_labels(agent, episodes, labels), strict=True):
        of_it = learned[episode.question.id]
        taught = _other_context(agent, episode, labels) if agent.gives_answer else None
        if taught is not None:
            before, source = taught
            of_it.examples.append(_example(agent, before, before.question.answers[0]))
            of_it.sources.append(source)
        elif known is not None:
            response, source = known
            example = _example(agent, episode, response)
            of_it.examples.append(example)
            of_it.sources.append(source)
            if isinstance(agent, Selector) and episode.question.gold_passages:
                weak = agent.label(episode, "lexical") or ""
                of_it.weak = tuple(passage.id for passage in agent.read(episode, weak)[0].chosen)
                of_it.pair = _pair(agent, episode, example, weak, labels.seed)
        if known is not None:
            episode, _ = agent.read(episode, known[0])
        spoken.append(episode)
    return spoken


def _known_labels(agent: Agent, episodes: Sequence[Episode], labels: Labels) -> list[tuple[str, str] | None]:
    """Each episode's label and its source, from the first source that has one."""
    found: list[tuple[str, str] | None] = [None] * len(episodes)
    for source in labels.sources.get(agent.name, agent.label_sources):
        missing = [i for i, known in enumerate(found) if known is None]
        asked = [episodes[i] for i in missing]
        if source == TEACHER:
            responses: Iterable[str | None] = _taught(agent, asked, labels.teacher)
        else:
            responses = (agent.label(episode, source) for episode in asked)
        for i, response in zip(missing, responses, strict=True):
            found[i] = None if response is None else (response, source)
    return found


def _taught(agent: Agent, episodes: Sequence[Episode], teacher: LanguageModel | None) -> list[str | None]:
    """What the teacher says to the agent's own prompts. What the agent would be charged for is no label."""
    assert teacher is not None, "the settings ask for a teacher, so there has to be one"
    replies = teacher.generate([agent.prompt(episode) for episode in episodes], agent.max_new_tokens, GREEDY)
    return [
        reply.text if reply.text and agent.read(episode, reply.text)[1] == 0 else None
        for episode, reply in zip(episodes, replies, strict=True)
    ]


def _example(agent: Agent, episode: Episode, response: str) -> Example:
    return Example(f"{episode.question.id}/{agent.name}", agent.prompt(episode), response)


def _shuffled(episode: Episode, seed: int) -> Episode:
    """In use good passages come first; a selector that learned that would not have to read."""
    order = list(episode.candidates)
    random.Random(f"{seed} {episode.question.id} order").shuffle(order)
    return replace(episode, candidates=tuple(order))


def _other_context(agent: Agent, episode: Episode, labels: Labels) -> tuple[Episode, str] | None:
    """The episode with something else to read than what was selected, where it is this question's turn, and what."""
    shares, rng = labels.contexts, random.Random(f"{labels.seed} {episode.question.id} context")
    (drawn,) = rng.choices(("selected", "gold", "nothing"), (shares.selected, shares.gold, shares.nothing))
    if drawn == "nothing":
        return replace(episode, selected=(), condensed=None), "without passages"
    gold = _gold_passages(episode, labels.corpus) if drawn == "gold" else []
    if not gold:
        return None
    rng.shuffle(gold)
    read = replace(episode, candidates=tuple(gold), selected=tuple(range(len(gold))), condensed=None)
    return read, "gold passages"


def _gold_passages(episode: Episode, corpus: Passages | None) -> list[Passage]:
    """All of them, or none where they are not known."""
    there = {passage.id: passage for passage in episode.candidates}
    missing = [id for id in episode.question.gold_passages if id not in there]
    if missing and corpus is None:
        return []
    return [there.get(id) or corpus[id] for id in episode.question.gold_passages]  # type: ignore[index]


def _pair(agent: Selector, episode: Episode, example: Example, weak: str, seed: int) -> Pair | None:
    """The gold selection against a worse one: the lexical label where it differs, else one gold passage taken for
    another. None without candidates."""
    gold = agent.label(episode, "gold")
    if gold is None or not episode.candidates:
        return None
    worse = weak
    if worse == gold:
        rng = random.Random(f"{seed} {episode.question.id} pair")
        ids = set(episode.question.gold_passages)
        right = [i for i, passage in enumerate(episode.candidates) if passage.id in ids]
        wrong = [i for i, passage in enumerate(episode.candidates) if passage.id not in ids]
        if not wrong:
            worse = agent.write(right[1:])
        else:
            left_out = rng.choice(right) if right else None
            worse = agent.write(sorted([i for i in right if i != left_out] + [rng.choice(wrong)]))
    return Pair(example.id, replace(example, response=gold), worse)
