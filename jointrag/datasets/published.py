"""Public question sets as they are published: a row in, a question and the paragraphs it comes with out.

    parsed = SETS["musique"].read(row)
    parsed.question, parsed.passages

Rows may have the shape of the published files or the one that Hugging Face's `datasets` gives them. A passage's id is a
hash of what it says, so a paragraph that comes with many questions is one passage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jointrag.types import Passage, Question

Row = Mapping[str, Any]
_REFERENCE = re.compile(r"#(\d+)")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A question, and the paragraphs that were published with it: the gold ones and distractors."""

    question: Question
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True)
class Hub:
    """Where `datasets` finds a set."""

    path: str
    subset: str | None = None


@dataclass(frozen=True, slots=True)
class PublicSet:
    """How a set's rows are read, and where they come from. `has_passages`: it brings a corpus of its own."""

    read: Callable[[Row], Parsed]
    hub: Hub
    has_passages: bool = False


# ---- several hops, with paragraphs -----------------------------------------------------------------------------------


def hotpotqa(row: Row) -> Parsed:
    """{_id, question, answer, type, supporting_facts: [[title, sentence]], context: [[title, [sentences]]]}"""
    passages = tuple(_paragraph(title, "".join(sentences)) for title, sentences in _pairs(row["context"], "sentences"))
    named = {passage.title: passage.id for passage in passages}
    gold = dict.fromkeys(named[title] for title, _ in _pairs(row["supporting_facts"], "sent_id") if title in named)
    question = Question(_id(row), row["question"], (row["answer"],), row.get("type", ""), tuple(gold))
    return Parsed(question, passages)


def two_wiki(row: Row) -> Parsed:
    """HotpotQA's form, and evidences: [[subject, relation, object]], the chain of facts that leads to the answer."""
    parsed = hotpotqa(row)
    facts = _plain(row.get("evidences", ()))
    if isinstance(facts, Mapping):
        facts = list(zip(facts["fact"], facts["relation"], facts["entity"], strict=True))
    asked = tuple(dict.fromkeys(_asked(relation, subject) for subject, relation, _ in facts))
    return Parsed(replace(parsed.question, sub_questions=asked), parsed.passages)


def musique(row: Row) -> Parsed:
    """{id, question, answer, answer_aliases, question_decomposition, paragraphs}; a step may name the answer of another
    as #1."""
    paragraphs = row["paragraphs"]
    passages = tuple(_paragraph(p["title"], p["paragraph_text"]) for p in paragraphs)
    gold = tuple(passage.id for passage, p in zip(passages, paragraphs, strict=True) if p["is_supporting"])
    steps = row.get("question_decomposition", ())
    found = {str(number): step["answer"] for number, step in enumerate(steps, 1)}
    resolved = (_REFERENCE.sub(lambda match: found.get(match[1], match[0]), step["question"]) for step in steps)
    answers = _distinct((row["answer"], *row.get("answer_aliases", ())))
    hops = f"{row['id'].split('hop')[0]} hops" if "hop" in row["id"] else ""
    return Parsed(Question(row["id"], row["question"], answers, hops, gold, tuple(map(_step, resolved))), passages)


def _step(text: str) -> str:
    """MuSiQue writes some steps as `subject >> relation`."""
    subject, separator, relation = text.partition(" >> ")
    return _asked(relation.strip(), subject.strip()) if separator else text


def _asked(relation: str, subject: str) -> str:
    return f"What is the {relation} of {subject}?"


def _paragraph(title: str, text: str) -> Passage:
    passage = Passage("", title, text.strip())
    return replace(passage, id=hashlib.sha256(passage.contents.encode()).hexdigest()[:16])


def _pairs(value: Any, second: str) -> Iterable[tuple[str, Any]]:
    """[[title, value]] as published, {"title": […], second: […]} as `datasets` has it, or the text of either."""
    value = _plain(value)
    return zip(value["title"], value[second], strict=True) if isinstance(value, Mapping) else ((t, v) for t, v in value)


def _plain(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


# ---- questions and answers alone -------------------------------------------------------------------------------------


def ambigqa(row: Row) -> Parsed:
    """{id, question, annotations}: all answers to all readings of the question are accepted."""
    notes = row["annotations"]
    if isinstance(notes, Mapping):  # as `datasets` has it: {"answer": [[…]], "qaPairs": [{"answer": [[…]]}]}
        pairs = notes["qaPairs"]
        readings = [answers for reading in pairs for answers in reading["answer"]]
        answers = [answer for found in (*notes["answer"], *readings) for answer in found]
    else:
        answers = []
        for note in notes:
            for one in note.get("qaPairs", [note]):
                answers += one["answer"]
    return Parsed(Question(_id(row), row["question"], _distinct(answers)))


def natural_questions(row: Row) -> Parsed:
    """{question, answer: [str]}"""
    return Parsed(Question(_id(row), row["question"], _distinct(row["answer"])))


def triviaqa(row: Row) -> Parsed:
    """{question, question_id, answer: {value, aliases}}; the published files write the names in capitals."""
    lower = {name[:1].lower() + name[1:]: value for name, value in row.items()}
    answer = {name.lower(): value for name, value in lower["answer"].items()}
    name = lower.get("question_id") or lower.get("questionId") or ""
    return Parsed(Question(str(name), lower["question"], _distinct((answer["value"], *answer["aliases"]))))


def popqa(row: Row) -> Parsed:
    """{id, question, possible_answers: a JSON list as text, prop}"""
    return Parsed(Question(_id(row), row["question"], _distinct(_plain(row["possible_answers"])), row.get("prop", "")))


def flashrag(row: Row) -> Parsed:
    """{id, question, golden_answers, metadata}, the form of all sets of FlashRAG."""
    metadata = row.get("metadata") or {}
    return Parsed(
        Question(_id(row), row["question"], _distinct(row["golden_answers"]), str(metadata.get("type") or ""))
    )


def _id(row: Row) -> str:
    """Empty where the set gives none: the caller then numbers its rows."""
    name = next((row[key] for key in ("_id", "id") if row.get(key) is not None), "")
    return str(name)


def _distinct(answers: Sequence[str] | Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(answer for answer in answers if answer.strip()))


SETS = {
    "hotpotqa": PublicSet(hotpotqa, Hub("hotpotqa/hotpot_qa", "distractor"), has_passages=True),
    "2wikimultihopqa": PublicSet(two_wiki, Hub("xanhho/2WikiMultihopQA"), has_passages=True),
    "musique": PublicSet(musique, Hub("dgslibisey/MuSiQue"), has_passages=True),
    "ambigqa": PublicSet(ambigqa, Hub("sewon/ambig_qa", "light")),
    "nq": PublicSet(natural_questions, Hub("google-research-datasets/nq_open")),
    "triviaqa": PublicSet(triviaqa, Hub("mandarjoshi/trivia_qa", "rc.nocontext")),
    "popqa": PublicSet(popqa, Hub("akariasai/PopQA")),
    "flashrag": PublicSet(flashrag, Hub("RUC-NLPIR/FlashRAG_datasets")),
}
