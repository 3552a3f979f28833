"""What the agents learn from, to be read before they do: data_card.md beside the examples.

How many examples each agent has and how long they are, how many questions there are of each type, whether the retriever
finds their gold passages, how far the selector's weak labels are from these, and twenty questions with their whole way
through the chain. Lengths are in words and marks, a character each in Chinese and Japanese: close to tokens, whatever
the tokenizer.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, quantiles
from typing import TYPE_CHECKING

from jointrag.lengths import num_words
from jointrag.types import Episode, Example

if TYPE_CHECKING:
    from trainers.agent_data import Labelled

NUM_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Found:
    """Of questions whose gold passages are known: how many have all of them, or some, among their candidates, and how
    the selector's labels compare with them."""

    num_questions: int
    all_found: float  # shares, 0 to 1
    some_found: float
    label_precision: float  # of the passages chosen
    label_recall: float  # of the gold passages among the candidates


def card(labelled: Sequence[Labelled], counts: Mapping[str, int], seed: int) -> str:
    """The page, in Markdown. `counts`: examples and questions, by file."""
    episodes = [one.episode for one in labelled]
    parts = ["# What the agents learn from", _table(("file", "lines"), [(k, f"{v:,}") for k, v in counts.items()])]
    parts += ["## Warm-start examples", _examples(labelled)]
    parts += ["## Questions", _questions(episodes)]
    parts += [f"## {min(NUM_SAMPLES, len(episodes))} of them", *map(_sample, _some(episodes, seed))]
    return "\n\n".join(parts) + "\n"


def found(episodes: Iterable[Episode]) -> Found | None:
    """None where no question has gold passages."""
    known = [episode for episode in episodes if episode.question.gold_passages]
    if not known:
        return None
    num_all = num_some = chosen = chosen_gold = there = 0
    for episode in known:
        gold, candidates = set(episode.question.gold_passages), {p.id for p in episode.candidates}
        read = {passage.id for passage in episode.passages}
        num_all += gold <= candidates
        num_some += bool(gold & candidates)
        chosen += len(read)
        chosen_gold += len(read & gold)
        there += len(gold & candidates)
    return Found(
        len(known),
        num_all / len(known),
        num_some / len(known),
        chosen_gold / chosen if chosen else 0.0,
        chosen_gold / there if there else 0.0,
    )


def metrics(episodes: Iterable[Episode]) -> dict[str, float]:
    """agent_data/gold_found, /label_precision and /label_recall; nothing where no gold passage is known."""
    measured = found(episodes)
    if measured is None:
        return {}
    return {
        "agent_data/gold_found": measured.all_found,
        "agent_data/label_precision": measured.label_precision,
        "agent_data/label_recall": measured.label_recall,
    }


# ---- tables ----------------------------------------------------------------------------------------------------------


def _examples(labelled: Sequence[Labelled]) -> str:
    of_agent: defaultdict[str, list[Example]] = defaultdict(list)
    for one in labelled:
        for example in one.examples:
            of_agent[example.prompt.agent].append(example)
    rows = []
    for agent, examples in of_agent.items():
        prompts = [num_words(f"{e.prompt.instructions} {e.prompt.content}") for e in examples]
        responses = [num_words(e.response) for e in examples]
        empty = sum(not e.response for e in examples)
        share = f"{len(examples) / max(1, len(labelled)):.0%}"
        rows.append((agent, f"{len(examples):,}", share, _spread(prompts), _spread(responses), f"{empty:,}"))
    heads = ("agent", "examples", "of the questions", "prompt: mean, 90 %, most", "response", "empty responses")
    return _table(heads, rows)


def _questions(episodes: Sequence[Episode]) -> str:
    types = Counter(episode.question.type or "–" for episode in episodes)
    rows = []
    for kind, count in types.most_common():
        of_type = [episode for episode in episodes if (episode.question.type or "–") == kind]
        decomposed = sum(bool(episode.question.sub_questions) for episode in of_type)
        measured = found(of_type)
        shares = ("–",) * 4
        if measured:
            values = (measured.all_found, measured.some_found, measured.label_precision, measured.label_recall)
            shares = tuple(f"{value:.0%}" for value in values)
        asked = mean(len(episode.sub_questions) for episode in of_type)
        rows.append((kind, f"{count:,}", f"{decomposed:,}", f"{asked:.2f}", *shares))
    heads = (
        "type", "questions", "with a decomposition", "sub-questions asked", "all gold found", "some gold found",
        "selector's labels: precision", "recall",
    )  # fmt: skip
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _spread(lengths: Sequence[int]) -> str:
    ninth = quantiles(lengths, n=10)[-1] if len(lengths) > 1 else lengths[0]
    return f"{mean(lengths):.0f}, {ninth:.0f}, {max(lengths)}"


# ---- samples ---------------------------------------------------------------------------------------------------------


def _some(episodes: Sequence[Episode], seed: int) -> list[Episode]:
    return random.Random(seed).sample(list(episodes), min(NUM_SAMPLES, len(episodes)))


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
