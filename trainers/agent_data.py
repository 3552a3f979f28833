"""Stage 5: what the agents learn from.

Warm-start examples come from source questions, with weak labels: the rewriter's is the data set's decomposition where
it has one and the question itself otherwise; the selector's is a lexical match; the generator's is the gold answer.
MAPPO gets target questions with their answers and nothing else. Prompts are made by the agents themselves, so training
and use cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jointrag.agents import Chain, build_chain
from jointrag.agents.generator import Generator
from jointrag.agents.rewriter import Rewriter
from jointrag.agents.selector import Selector
from jointrag.config import AgentDataConfig, AgentsConfig
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.metrics import normalize
from jointrag.pipeline import retrieve
from jointrag.progress import progress
from jointrag.retrieval import HttpRetriever, Retriever
from jointrag.types import Episode, Example, Passage, Question

QUESTIONS_PER_REQUEST = 256
YES_NO = {"yes", "no"}


def build(
    config: AgentDataConfig, agents: AgentsConfig, *, prepared: Path, retrieval_url: str, seed: int, out: Path
) -> dict[str, float]:
    """Write {warm_start,reading,control}.jsonl (Example) and {questions,dev}.jsonl (Question) below `out`."""
    rng = np.random.default_rng(seed)
    chain, retriever = build_chain(agents), HttpRetriever(retrieval_url)
    passages = {p.id: p for p in read_jsonl(prepared / "corpus.jsonl", Passage)} if config.num_reading_examples else {}
    source, train, dev = (
        list(read_jsonl(prepared / f"questions/{s}.jsonl", Question)) for s in ("source", "train", "dev")
    )
    labelled = list(label(_sample(source, config.num_warm_start_questions, rng), chain, retriever))
    counts = {
        "warm_start": write_jsonl(out / "warm_start.jsonl", examples(labelled, chain)),
        "reading": write_jsonl(
            out / "reading.jsonl", reading_examples(labelled, passages, chain, config.num_reading_examples, rng)
        ),
        "control": write_jsonl(
            out / "control.jsonl",
            examples(label(_sample(train, config.num_control_questions, rng), chain, retriever), chain),
        ),
        "questions": write_jsonl(out / "questions.jsonl", map(_without_labels, train)),
        "dev": write_jsonl(out / "dev.jsonl", dev),
    }
    if not labelled or not counts["questions"]:
        raise ValueError(f"{prepared}/questions: source.jsonl or train.jsonl is empty; both need at least one question")
    return {f"agent_data/{name}": float(count) for name, count in counts.items()}


def label(questions: Sequence[Question], chain: Chain, retriever: Retriever) -> Iterator[Episode]:
    """Episodes as they should go: sub-questions, the candidates they retrieve, the selection, the gold answer."""
    rewrites = any(isinstance(agent, Rewriter) for agent in chain.agents)
    selects = any(isinstance(agent, Selector) for agent in chain.agents)
    starts = range(0, len(questions), QUESTIONS_PER_REQUEST)
    for start in progress(starts, "labelling questions"):
        batch = questions[start : start + QUESTIONS_PER_REQUEST]
        episodes = [Episode(q, sub_questions=(q.sub_questions if rewrites else ()) or (q.text,)) for q in batch]
        for episode in retrieve(episodes, retriever, chain.num_candidates):
            selected = select(episode.question, episode.sub_questions, episode.candidates) if selects else None
            yield replace(episode, selected=selected, answer=episode.question.answers[0])


def select(question: Question, sub_questions: Sequence[str], candidates: Sequence[Passage]) -> tuple[int, ...]:
    """Weak selector label: the passages that contain an answer, and the closest to each sub-question by shared words.
    Yes and no are in no passage: there, only the closest ones. Positions in ascending order."""
    texts = [f" {normalize(p.contents)} " for p in candidates]
    closest = {_closest(sub_question, texts) for sub_question in sub_questions if texts}
    answers = [f" {normalize(answer)} " for answer in question.answers]
    if all(answer.strip() in YES_NO for answer in answers):
        return tuple(sorted(closest))
    matching = {i for i, text in enumerate(texts) if any(answer in text for answer in answers)}
    return tuple(sorted(matching | closest))


def _closest(query: str, texts: Sequence[str]) -> int:
    words = set(normalize(query).split())
    return max(range(len(texts)), key=lambda i: (len(words & set(texts[i].split())), -i))


def examples(episodes: Iterator[Episode] | Sequence[Episode], chain: Chain) -> Iterator[Example]:
    """One example per agent and episode. The generator gets none where no candidate holds the answer: it would learn to
    invent one."""
    for episode in episodes:
        for agent in chain.agents:
            if isinstance(agent, Rewriter):
                before = Episode(episode.question, sub_questions=(episode.question.text,))
                response = agent.write(episode.sub_questions)
            elif isinstance(agent, Selector):
                before, response = replace(episode, selected=None), agent.write(episode.selected or ())
            elif isinstance(agent, Generator):
                if not _answerable(episode):
                    continue
                before, response = episode, agent.write(episode.answer)
            else:
                raise TypeError(f"no warm-start label for agent {agent.name!r}: give it one in trainers/agent_data.py")
            yield Example(f"{episode.question.id}/{agent.name}", agent.prompt(before), response)


def reading_examples(
    episodes: Sequence[Episode], passages: dict[str, Passage], chain: Chain, count: int, rng: np.random.Generator
) -> Iterator[Example]:
    """For models that cannot read yet: the gold passages among 0 or more retrieved others, in any order. The generator
    answers; the selector, where the chain has one, finds the gold passages. They take turns."""
    readers = [agent for agent in chain.agents if isinstance(agent, Selector | Generator)]
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
        before = replace(episode, candidates=tuple(shown), selected=None)
        if isinstance(agent, Selector):
            response = agent.write([j for j, p in enumerate(shown) if p.id in episode.question.gold_passages])
        else:
            response = agent.write(episode.answer)
        yield Example(f"{episode.question.id}/reading-{i}", agent.prompt(before), response)


def _answerable(episode: Episode) -> bool:
    answers = [f" {normalize(answer)} " for answer in episode.question.answers]
    if any(answer.strip() in YES_NO for answer in answers):
        return True
    return any(answer in f" {normalize(p.contents)} " for p in episode.passages for answer in answers)


def _without_labels(question: Question) -> Question:
    """What MAPPO may know: the question and its answers."""
    return replace(question, gold_passages=(), sub_questions=())


def _sample(questions: Sequence[Question], count: int, rng: np.random.Generator) -> list[Question]:
    return [questions[i] for i in rng.permutation(len(questions))[:count]]
