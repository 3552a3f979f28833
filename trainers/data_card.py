"""What the agents learn from, to be read before they do: data_card.md beside the examples.

How many examples each agent has, how long they are and where their labels came from; how many questions there are of
each type, whether the retriever finds their gold passages, how far the selector's lexical labels are from these,
whether they were used or not; and twenty questions with their whole way through the chain. It is added up as examples
are made, so it takes no memory that grows with them. Lengths are in the tokens of `agent_data.tokenizer`, else in words
and marks, a character each in Chinese and Japanese: close to tokens, whatever the tokenizer.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

from jointrag.lengths import num_words
from jointrag.types import Episode, Example
from trainers.labelling import Labelled

T = TypeVar("T")
NUM_SAMPLES = 20
DEPTHS = (2, 5, 10)


@dataclass
class Lengths:
    """How often each length occurs."""

    counts: Counter[int] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Mean, the length that nine in ten do not exceed, the greatest."""
        number = self.counts.total()
        average = sum(length * count for length, count in self.counts.items()) / number
        ordered = sorted(self.counts)
        reached = accumulate(self.counts[length] for length in ordered)
        ninth = next(length for length, so_far in zip(ordered, reached, strict=True) if so_far >= 0.9 * number)
        return f"{average:.0f}, {ninth}, {ordered[-1]}"


@dataclass
class OfAgent:
    """The examples of one agent."""

    prompts: Lengths = field(default_factory=Lengths)
    responses: Lengths = field(default_factory=Lengths)
    sources: Counter[str] = field(default_factory=Counter)
    num_empty: int = 0


@dataclass
class OfType:
    """The questions of one type, and of those whose gold passages are known: how many have all of them, or some, among
    their candidates, and how the selector's lexical labels compare with them."""

    num_questions: int = 0
    num_decomposed: int = 0
    num_asked: int = 0
    num_known: int = 0
    num_all_found: int = 0
    num_some_found: int = 0
    num_chosen: int = 0
    num_chosen_gold: int = 0
    num_there: int = 0

    def add(self, episode: Episode, weak: Sequence[str] | None) -> None:
        """`weak`: what the selector's lexical label chooses; None: there is no selector."""
        question = episode.question
        self.num_questions += 1
        self.num_decomposed += bool(question.sub_questions)
        self.num_asked += len(episode.sub_questions)
        if not question.gold_passages:
            return
        gold, candidates = set(question.gold_passages), {p.id for p in episode.candidates}
        self.num_known += 1
        self.num_all_found += gold <= candidates
        self.num_some_found += bool(gold & candidates)
        if weak is not None:
            self.num_chosen += len(weak)
            self.num_chosen_gold += len(gold.intersection(weak))
            self.num_there += len(gold & candidates)

    @property
    def label_precision(self) -> float:
        """Of the passages chosen, the share that is gold."""
        return self.num_chosen_gold / self.num_chosen if self.num_chosen else 0.0

    @property
    def label_recall(self) -> float:
        """Of the gold passages among the candidates, the share that is chosen."""
        return self.num_chosen_gold / self.num_there if self.num_there else 0.0


class DataCard:
    """`add` every labelled question, then ask for `text` and `metrics`."""

    def __init__(self, seed: int, count: Callable[[Example], int] | None = None, unit: str = "words and marks") -> None:
        """`count`: the length of an example's prompt, in `unit`."""
        self._count = count or (lambda e: num_words(f"{e.prompt.instructions} {e.prompt.content}"))
        self._unit = unit
        self._random = random.Random(seed)
        self._agents: defaultdict[str, OfAgent] = defaultdict(OfAgent)
        self._types: defaultdict[str, OfType] = defaultdict(OfType)
        self._all = OfType()
        self._samples: list[Episode] = []
        self._num_measured = 0
        self._recall: dict[str, dict[int, float]] = {"the question itself": {}, "its sub-questions": {}}

    @property
    def num_questions(self) -> int:
        return self._all.num_questions

    def add(self, one: Labelled, found_by_question: Sequence[str] | None) -> None:
        """`found_by_question`: ids of what the retriever finds for the question as it stands, the best first; None: not
        asked."""
        for example, source in zip(one.examples, one.sources, strict=True):
            of_agent = self._agents[example.prompt.agent]
            of_agent.prompts.counts[self._count(example)] += 1
            of_agent.responses.counts[num_words(example.response)] += 1
            of_agent.sources[source] += 1
            of_agent.num_empty += not example.response
        episode = one.episode
        self._types[episode.question.type or "–"].add(episode, one.weak)
        self._all.add(episode, one.weak)
        if (gold := set(episode.question.gold_passages)) and found_by_question is not None:
            self._num_measured += 1
            for how, ids in zip(self._recall, (found_by_question, one.found), strict=True):
                for depth in DEPTHS:
                    if depth <= len(ids):
                        sums = self._recall[how]
                        sums[depth] = sums.get(depth, 0.0) + len(gold & set(ids[:depth])) / len(gold)
        # every question has the same chance to be one of the samples (Vitter, 1985, algorithm R)
        if len(self._samples) < NUM_SAMPLES:
            self._samples.append(episode)
        elif (place := self._random.randrange(self._all.num_questions)) < NUM_SAMPLES:
            self._samples[place] = episode

    def text(self, counts: Mapping[str, int]) -> str:
        """The page, in Markdown. `counts`: examples and questions, by file."""
        parts = ["# What the agents learn from", _table(("file", "lines"), [(k, f"{v:,}") for k, v in counts.items()])]
        parts += ["## Warm-start examples", f"Prompts in {self._unit}, responses in words and marks.", self._examples()]
        parts += ["## Questions", self._questions()]
        if self._num_measured:
            what = f"Gold passages among the first that are found, in %, over {self._num_measured:,} questions."
            parts += ["## Retrieval", what, self._found()]
        parts += [f"## {len(self._samples)} of them", *map(_sample, self._samples)]
        return "\n\n".join(parts) + "\n"

    def metrics(self) -> dict[str, float]:
        """agent_data/gold_found, /label_precision, /label_recall and /recall_at_<k> (by the question itself); nothing
        where no gold passage is known."""
        known = self._all.num_known
        if not known:
            return {}
        direct = self._recall["the question itself"]
        return {
            "agent_data/gold_found": self._all.num_all_found / known,
            "agent_data/label_precision": self._all.label_precision,
            "agent_data/label_recall": self._all.label_recall,
        } | {f"agent_data/recall_at_{depth}": total / self._num_measured for depth, total in direct.items()}

    def _examples(self) -> str:
        rows = []
        for agent, of_agent in self._agents.items():
            number = of_agent.sources.total()
            sources = ", ".join(f"{source} {count / number:.0%}" for source, count in of_agent.sources.most_common())
            share = f"{number / self._all.num_questions:.0%}"
            lengths = str(of_agent.prompts), str(of_agent.responses)
            rows.append((agent, f"{number:,}", share, sources, *lengths, f"{of_agent.num_empty:,}"))
        heads = (
            "agent", "examples", "of the questions", "labels from", "prompt: mean, 90 %, most", "response",
            "empty responses",
        )  # fmt: skip
        return _table(heads, rows)

    def _questions(self) -> str:
        rows = []
        for kind, of_type in sorted(self._types.items(), key=lambda item: -item[1].num_questions):
            shares: tuple[str, ...] = ("–",) * 4
            if known := of_type.num_known:
                values = (of_type.num_all_found / known, of_type.num_some_found / known)
                values += (of_type.label_precision, of_type.label_recall)
                shares = tuple(f"{value:.0%}" for value in values)
            asked = of_type.num_asked / of_type.num_questions
            rows.append((kind, f"{of_type.num_questions:,}", f"{of_type.num_decomposed:,}", f"{asked:.2f}", *shares))
        heads = (
            "type", "questions", "with a decomposition", "sub-questions asked", "all gold found", "some gold found",
            "lexical labels: precision", "recall",
        )  # fmt: skip
        return _table(heads, rows)

    def _found(self) -> str:
        depths = [depth for depth in DEPTHS if any(depth in sums for sums in self._recall.values())]
        rows = [
            (how, *(f"{100 * sums[depth] / self._num_measured:.1f}" if depth in sums else "–" for depth in depths))
            for how, sums in self._recall.items()
        ]
        return _table(("searched for", *(f"recall@{depth}" for depth in depths)), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _sample(episode: Episode) -> str:
    question = episode.question
    head = [f"**{question.text}**", f"answers: {' / '.join(question.answers)}"]
    head += [f"asks: {asked}" for asked in episode.sub_questions]
    shown = []
    for number, passage in enumerate(episode.candidates):
        chosen = "chosen" if passage in episode.passages else ""
        gold = "gold" if passage.id in question.gold_passages else ""
        marks = ", ".join(mark for mark in (chosen, gold) if mark)
        text = " ".join(passage.contents.split())
        shown.append(f"- {number}{f' ({marks})' if marks else ''}: {text[:160]}{'…' if len(text) > 160 else ''}")
    learned = episode.answer or "(nothing: no passage holds the answer)"
    return "\n\n".join(["  \n".join(head), "\n".join(shown), f"learns to answer: {learned}"])
