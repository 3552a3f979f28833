"""Made-up countries: a corpus of one-sentence passages and questions about them, from a seed.

Each country has cities, people, companies and films that no other country has; their names are new combinations of
known parts, so a reader has to look the answer up. One-hop questions ask for one fact. Bridge questions ask for a fact
about somebody who is only described ("the violinist from North Varia who directed Silent Harbor"): one passage says who
that is, another one holds the answer, and several people fit half of the description.

Source countries are for retriever training and the warm start. Target, dev and test countries are another domain: half
of what is told and asked there is phrased in a way that is rare in the source, more questions are bridges, and some
pairs of facts are never asked for together in a source.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jointrag.config import SyntheticDataset
from jointrag.datasets.synthetic_words import (
    CITIES,
    COMPANIES,
    COUNTRIES,
    FILMS,
    FIRST_NAMES,
    LAST_NAMES,
    PRODUCTS,
    PROFESSIONS,
    RELATIONS,
    Relation,
)
from jointrag.jsonl import write_jsonl
from jointrag.types import Passage, Question

NUM_CITIES = 6
PHRASINGS = {"source": (0.5, 0.4, 0.1), "target": (0.0, 0.5, 0.5)}  # how often each of a relation's three is used
SOURCE_NEVER_ASKS = {("mayor", "born"), ("mayor", "works"), ("star", "lives"), ("founder", "works")}


@dataclass(frozen=True, slots=True)
class Entity:
    """`descriptor` is what a bridge question may say instead of the name; empty where it says nothing."""

    kind: str
    name: str
    descriptor: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    relation: Relation
    subject: Entity
    object: Entity
    passage: Passage


class Names:
    """Deals every full name once, in a random order."""

    def __init__(self, rng: np.random.Generator) -> None:
        pairs = {
            "country": COUNTRIES,
            "city": CITIES,
            "company": COMPANIES,
            "film": FILMS,
            "person": (FIRST_NAMES, LAST_NAMES),
        }
        self._left: dict[str, list[str]] = {}
        for kind, (first, second) in pairs.items():
            names = [f"{a} {b}" for a, b in itertools.product(first, second)]
            self._left[kind] = [names[i] for i in rng.permutation(len(names))]

    def take(self, kind: str, count: int) -> list[str]:
        left = self._left[kind]
        if count > len(left):
            raise ValueError(f"dataset: not enough {kind} names; use fewer countries or fewer people")
        taken, self._left[kind] = left[:count], left[count:]
        return taken


def make_country(names: Names, domain: str, num_people: int, prefix: str, rng: np.random.Generator) -> list[Fact]:
    """All facts of one new country, each with its passage."""
    (country,) = names.take("country", 1)
    num_works = max(2, round(0.4 * num_people))
    people = _described(names.take("person", num_people), "person", PROFESSIONS, country, rng)
    companies = _described(names.take("company", num_works), "company", PRODUCTS, country, rng)
    entities = {
        "person": people,
        "company": companies,
        "city": [Entity("city", name) for name in names.take("city", NUM_CITIES)],
        "film": [Entity("film", name) for name in names.take("film", num_works)],
    }
    facts = []
    for relation in RELATIONS:
        for subject in entities[relation.subject]:
            candidates = [e for e in entities[relation.object] if e is not subject]
            target = candidates[rng.integers(len(candidates))]
            phrasing = relation.facts[rng.choice(3, p=PHRASINGS[domain])]
            text = phrasing.format(s=subject.name, d=subject.descriptor, o=target.name)
            facts.append(Fact(relation, subject, target, Passage(f"{prefix}-{len(facts)}", "", text)))
    return facts


def _described(
    names: list[str], kind: str, words: tuple[str, ...], country: str, rng: np.random.Generator
) -> list[Entity]:
    """Entities that share each descriptor with few others of their country."""
    order = rng.permutation(len(names))
    return [Entity(kind, name, f"{words[i % len(words)]} from {country}") for name, i in zip(names, order, strict=True)]


def ask(facts: list[Fact], domain: str, bridge_share: float, rng: np.random.Generator) -> Iterator[Question]:
    """Endless questions about these facts; `id` is left to the caller."""
    by_subject = {(fact.subject.name, fact.relation.name): fact for fact in facts}
    bridges = [
        (first, second)
        for first in facts
        for relation in RELATIONS
        if first.relation.clause and (second := by_subject.get((first.object.name, relation.name)))
        if second.object.name != first.subject.name
        if domain == "target" or (first.relation.name, relation.name) not in SOURCE_NEVER_ASKS
    ]
    while True:
        phrasing = rng.choice(3, p=PHRASINGS[domain])
        if rng.random() < bridge_share:
            yield _bridge_question(*bridges[rng.integers(len(bridges))], phrasing)
        else:
            fact = facts[rng.integers(len(facts))]
            text = fact.relation.questions[phrasing].format(s=fact.subject.name)
            yield Question("", text, (fact.object.name,), "one-hop", (fact.passage.id,))


def _bridge_question(first: Fact, second: Fact, phrasing: int) -> Question:
    described = f"the {second.subject.descriptor}"
    clause = first.relation.clause.format(s=first.subject.name)
    return Question(
        id="",
        text=second.relation.questions[phrasing].format(s=f"{described} {clause}"),
        answers=(second.object.name,),
        type="bridge",
        gold_passages=(first.passage.id, second.passage.id),
        sub_questions=(
            first.relation.questions[phrasing].format(s=first.subject.name),
            second.relation.questions[phrasing].format(s=described),
        ),
    )


def prepare(config: SyntheticDataset, *, seed: int, out: Path) -> dict[str, float]:
    """Write corpus.jsonl and questions/{source,train,dev,test}.jsonl below `out`."""
    rng = np.random.default_rng(seed)
    names = Names(rng)
    splits = {
        "source": ("source", config.num_source_countries, config.num_source_questions, config.source_bridge_share),
        "train": ("target", config.num_target_countries, config.num_train_questions, config.target_bridge_share),
        "dev": ("target", config.num_dev_countries, config.num_dev_questions, config.target_bridge_share),
        "test": ("target", config.num_test_countries, config.num_test_questions, config.target_bridge_share),
    }
    passages: list[Passage] = []
    metrics: dict[str, float] = {}
    for split, (domain, num_countries, num_questions, bridge_share) in splits.items():
        countries = [make_country(names, domain, config.num_people, f"{split}{i}", rng) for i in range(num_countries)]
        passages += [fact.passage for facts in countries for fact in facts]
        questions = _distinct([ask(facts, domain, bridge_share, rng) for facts in countries], num_questions, split)
        if split == "source":
            questions = [_forget_sub_questions(q, config.decomposition_share, rng) for q in questions]
        metrics[f"prepare/{split}_questions"] = write_jsonl(out / "questions" / f"{split}.jsonl", questions)
    order = rng.permutation(len(passages))  # neighbours in the corpus should not be neighbours in the world
    metrics["prepare/passages"] = write_jsonl(out / "corpus.jsonl", [passages[i] for i in order])
    return metrics


def _distinct(sources: list[Iterator[Question]], count: int, split: str) -> list[Question]:
    """`count` questions with different texts, in turn from each source."""
    seen: dict[str, Question] = {}
    repeats = 0
    for source in itertools.cycle(sources):
        question = next(source)
        repeats += 1
        if question.text not in seen:
            seen[question.text] = replace(question, id=f"{split}-{len(seen)}")
            repeats = 0
        if len(seen) == count:
            return list(seen.values())
        if repeats == 1_000:  # nearly everything that can be asked has been
            break
    raise ValueError(
        f"dataset: only {len(seen)} different {split} questions exist, {count} wanted; raise num_people or the number "
        f"of {split} countries, or lower num_{split}_questions"
    )


def _forget_sub_questions(question: Question, keep_share: float, rng: np.random.Generator) -> Question:
    if not question.sub_questions or rng.random() < keep_share:
        return question
    return replace(question, sub_questions=())
