"""Stage 5: what the agents learn from.

Warm-start examples come from source questions, as `trainers.labelling` has them; MAPPO gets target questions with their
answers and nothing else. Questions are read, labelled and written one batch after the other: how many there are makes
no difference to memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np

from jointrag.agents import Chain, build_chain
from jointrag.agents.selector import Selector
from jointrag.config import AgentDataConfig, AgentsConfig
from jointrag.jsonl import JsonlWriter, read_at, read_jsonl, write_atomically, write_jsonl
from jointrag.kept_replies import KeptReplies
from jointrag.passages_by_id import PassagesById
from jointrag.progress import progress
from jointrag.retrieval import HttpRetriever, Retriever
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Episode, Example, Question
from trainers.data_card import DEPTHS, DataCard
from trainers.exports import Exports
from trainers.labelling import QUESTIONS_PER_REQUEST, Labelled, Labels, Passages, batched, label

ENOUGH_TO_MEASURE = 1_000  # questions for which it is measured how well they find their own gold passages


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
    """Write the examples, {warm_start,reading,control}.jsonl, the questions, {questions,dev}.jsonl, exports for other
    trainers and data_card.md below `out`."""
    retriever = HttpRetriever(retrieval_url)
    return build_with(retriever, config, agents, prepared=prepared, seed=seed, out=out, tracker=tracker)


def build_with(
    retriever: Retriever,
    config: AgentDataConfig,
    agents: AgentsConfig,
    *,
    prepared: Path,
    seed: int,
    out: Path,
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """The same with any retriever."""
    rng = np.random.default_rng(seed)
    chain = build_chain(agents)
    split = {name: prepared / "questions" / f"{name}.jsonl" for name in ("source", "train", "dev")}
    corpus = PassagesById(prepared / "corpus.jsonl")
    labels = _labels(config, corpus, seed, out)
    source = _Sample(split["source"], config.num_warm_start_questions, rng)
    readers = [agent for agent in chain.agents if agent.gives_answer or isinstance(agent, Selector)]
    num_kept = -(-config.num_reading_examples // len(readers))
    card = _card(config, seed)
    kept: list[Episode] = []  # what reading examples are made of
    with JsonlWriter(out / "warm_start.jsonl") as file, Exports(out, config.exports) as exports:
        shown = progress(label(source, chain, retriever, labels), "labelling questions", total=len(source))
        for labelled in batched(shown, QUESTIONS_PER_REQUEST):
            measured = card.num_questions < ENOUGH_TO_MEASURE
            direct = _found_directly(labelled, retriever, chain) if measured else repeat(None)
            for one, found in zip(labelled, direct, strict=False):
                for example in one.examples:
                    file.write(example)
                exports.add(one)
                card.add(one, found)
                if len(kept) < num_kept and one.episode.question.gold_passages:
                    kept.append(one.episode)
    reading = reading_examples(kept, corpus, chain, config.num_reading_examples, rng)
    counts = {"warm_start": file.count, "reading": write_jsonl(out / "reading.jsonl", reading)}
    target = _Sample(split["train"], config.num_control_questions, rng)
    shown = progress(label(target, chain, retriever, labels), "labelling questions for the control", total=len(target))
    counts["control"] = write_jsonl(out / "control.jsonl", _examples(shown))
    counts["questions"] = write_jsonl(
        out / "questions.jsonl", map(_without_labels, read_jsonl(split["train"], Question))
    )
    counts["dev"] = write_jsonl(out / "dev.jsonl", read_jsonl(split["dev"], Question))
    if not len(source) or not counts["questions"]:
        raise ValueError(f"{prepared}/questions: source.jsonl or train.jsonl is empty; both need at least one question")
    if exports.num_pairs:
        counts["selector_pairs"] = exports.num_pairs
    text = card.text(counts)
    write_atomically(out / "data_card.md", text)
    tracker.log_text(text, "data_card.md")
    return {f"agent_data/{name}": float(count) for name, count in counts.items()} | card.metrics()


def _labels(config: AgentDataConfig, corpus: PassagesById, seed: int, out: Path) -> Labels:
    teacher = None
    if config.teacher is not None:
        from jointrag.served import ServedLM

        teacher = KeptReplies(ServedLM(config.teacher), config.teacher.name, out / "teacher.jsonl")
    return Labels(config.label_sources, teacher, config.answer_contexts, corpus, config.shuffle_candidates, seed)


def _card(config: AgentDataConfig, seed: int) -> DataCard:
    if config.tokenizer is None:
        return DataCard(seed)
    from transformers import AutoTokenizer

    from jointrag.prompts import encode_prompt

    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    return DataCard(seed, lambda e: len(encode_prompt(tokenizer, e.prompt)), f"tokens of {config.tokenizer}")


def _found_directly(labelled: Sequence[Labelled], retriever: Retriever, chain: Chain) -> Iterator[Sequence[str]]:
    """Per question the ids of what is found for it as it stands, where its gold passages are known."""
    known = [one.episode.question.text for one in labelled if one.episode.question.gold_passages]
    hits = iter(retriever.search(known, max(*DEPTHS, chain.num_candidates)) if known else [])
    for one in labelled:
        yield [hit.passage.id for hit in next(hits)] if one.episode.question.gold_passages else ()


def reading_examples(
    episodes: Sequence[Episode], corpus: Passages, chain: Chain, count: int, rng: np.random.Generator
) -> Iterator[Example]:
    """For models that cannot read yet: the gold passages among 0 or more retrieved others, in any order. Who answers in
    the chain answers; the selector, where there is one, finds the gold passages. They take turns."""
    readers = [agent for agent in chain.agents if agent.gives_answer or isinstance(agent, Selector)]
    if count and not episodes:
        raise ValueError(
            "agent_data.num_reading_examples needs source questions with gold_passages; without any, set "
            "agent_data.num_reading_examples=0 and warm_start.reading_epochs=0"
        )
    for i in range(count):
        agent, episode = readers[i % len(readers)], episodes[(i // len(readers)) % len(episodes)]
        gold = [corpus[g] for g in episode.question.gold_passages]
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


class _Sample:
    """A random `count` of a file's questions, read when their turn comes; all of them where there are fewer."""

    def __init__(self, path: Path, count: int, rng: np.random.Generator) -> None:
        self._path = path
        starts, start = array("q"), 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    starts.append(start)
                start += len(line)
        self._starts = np.frombuffer(starts, dtype=np.int64)[rng.permutation(len(starts))[:count]]

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Question]:
        return read_at(self._path, self._starts, Question)
