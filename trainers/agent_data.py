"""Stage 5: what the agents learn from.

Warm-start examples come from source questions: each agent is asked for its prompt and its weak label when its turn in
the chain comes, and the chain goes on as if it had said just that. So training and use cannot drift apart, and a new
agent brings its label itself. MAPPO gets target questions with their answers and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from jointrag.agents import Agent, Chain, build_chain
from jointrag.agents.selector import Selector
from jointrag.config import AgentDataConfig, AgentsConfig
from jointrag.jsonl import read_jsonl, write_atomically, write_jsonl
from jointrag.pipeline import walk
from jointrag.progress import progress
from jointrag.retrieval import HttpRetriever, Retriever
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Episode, Example, Passage, Question
from trainers import data_card

QUESTIONS_PER_REQUEST = 256


def build(
    config: AgentDataConfig,
    agents: AgentsConfig,
    *,
    prepared: Path,
    retrieval_url: str,
    seed: int,
    out: Path,
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Write the examples, {warm_start,reading,control}.jsonl, the questions, {questions,dev}.jsonl, and data_card.md
    below `out`."""
    rng = np.random.default_rng(seed)
    chain, retriever = build_chain(agents), HttpRetriever(retrieval_url)
    passages = {p.id: p for p in read_jsonl(prepared / "corpus.jsonl", Passage)} if config.num_reading_examples else {}
    source, train, dev = (
        list(read_jsonl(prepared / f"questions/{s}.jsonl", Question)) for s in ("source", "train", "dev")
    )
    labelled = list(label(_sample(source, config.num_warm_start_questions, rng), chain, retriever))
    episodes = [one.episode for one in labelled]
    reading = list(reading_examples(episodes, passages, chain, config.num_reading_examples, rng))
    control = label(_sample(train, config.num_control_questions, rng), chain, retriever)
    counts = {
        "warm_start": write_jsonl(out / "warm_start.jsonl", _examples(labelled)),
        "reading": write_jsonl(out / "reading.jsonl", reading),
        "control": write_jsonl(out / "control.jsonl", _examples(control)),
        "questions": write_jsonl(out / "questions.jsonl", map(_without_labels, train)),
        "dev": write_jsonl(out / "dev.jsonl", dev),
    }
    if not labelled or not counts["questions"]:
        raise ValueError(f"{prepared}/questions: source.jsonl or train.jsonl is empty; both need at least one question")
    card = data_card.card(labelled, counts, seed)
    write_atomically(out / "data_card.md", card)
    tracker.log_text(card, "data_card.md")
    return {f"agent_data/{name}": float(count) for name, count in counts.items()} | data_card.metrics(episodes)


@dataclass(frozen=True)
class Labelled:
    """An episode as it should go, and what the agents learn from it, in the order in which they speak."""

    episode: Episode
    examples: tuple[Example, ...]


def label(questions: Sequence[Question], chain: Chain, retriever: Retriever) -> Iterator[Labelled]:
    """Every question's way through the chain when each agent says its label."""
    for start in progress(range(0, len(questions), QUESTIONS_PER_REQUEST), "labelling questions"):
        batch = questions[start : start + QUESTIONS_PER_REQUEST]
        learned: dict[str, list[Example]] = {question.id: [] for question in batch}
        *_, episodes = walk(batch, chain, retriever, partial(say_labels, learned=learned))
        for episode in episodes:
            yield Labelled(episode, tuple(learned[episode.question.id]))


def say_labels(agent: Agent, episodes: Sequence[Episode], learned: dict[str, list[Example]]) -> list[Episode]:
    """Every episode with the agent's label read; the examples are added to `learned`, by question id. Where the agent
    has no label, the episode goes on without it."""
    spoken = []
    for episode in episodes:
        if (response := agent.label(episode)) is not None:
            example = Example(f"{episode.question.id}/{agent.name}", agent.prompt(episode), response)
            learned[episode.question.id].append(example)
            episode, _ = agent.read(episode, response)
        spoken.append(episode)
    return spoken


def reading_examples(
    episodes: Sequence[Episode], passages: dict[str, Passage], chain: Chain, count: int, rng: np.random.Generator
) -> Iterator[Example]:
    """For models that cannot read yet: the gold passages among 0 or more retrieved others, in any order. Who answers in
    the chain answers; the selector, where there is one, finds the gold passages. They take turns."""
    readers = [agent for agent in chain.agents if agent.gives_answer or isinstance(agent, Selector)]
    known = [e for e in episodes if e.question.gold_passages]
    if count and not known:
        raise ValueError(
            "agent_data.num_reading_examples needs source questions with gold_passages; without any, set "
            "agent_data.num_reading_examples=0 and warm_start.reading_epochs=0"
        )
    for i in range(count):
        agent, episode = readers[i % len(readers)], known[(i // len(readers)) % len(known)]
        gold = [passages[g] for g in episode.question.gold_passages]
        others = [p for p in episode.candidates if p.id not in episode.question.gold_passages]
        num_others = rng.integers(min(len(others), max(0, chain.num_candidates - len(gold))) + 1)
        shown = [*gold, *(others[j] for j in rng.permutation(len(others))[:num_others])]
        shown = [shown[j] for j in rng.permutation(len(shown))]
        before = Episode(episode.question, episode.sub_questions, tuple(shown))
        if isinstance(agent, Selector):
            response = agent.write([j for j, p in enumerate(shown) if p.id in episode.question.gold_passages])
        else:
            response = episode.question.answers[0]
        yield Example(f"{episode.question.id}/reading-{i}", agent.prompt(before), response)


def _examples(labelled: Iterable[Labelled]) -> Iterator[Example]:
    return (example for one in labelled for example in one.examples)


def _without_labels(question: Question) -> Question:
    """What MAPPO may know: the question and its answers."""
    return replace(question, gold_passages=(), sub_questions=())


def _sample(questions: Sequence[Question], count: int, rng: np.random.Generator) -> list[Question]:
    return [questions[i] for i in rng.permutation(len(questions))[:count]]
