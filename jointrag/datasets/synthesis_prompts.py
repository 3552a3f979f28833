"""What the language model is told when it writes questions, and how its replies are read.

A reply is a few labelled lines, in any order, whatever stands around them:

    Question: Where was the director of Silent Harbor born?
    Answer: Port Hale
    First: Who directed Silent Harbor?
    Second: Where was Anna Berg born?
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jointrag.types import Passage, Prompt

MAX_NEW_TOKENS = 200

_RULES = (
    "Someone who has never seen the {passages} must understand the question: it names what it asks about and never "
    'says "the passage" or "the text". The answer is short, a name, a date or a number, copied word for word from the '
    "{where}, and does not occur in the question. Write in the language of the {passages}."
)
ONE_HOP = (
    "You write a question for a quiz about a document collection. One passage is given; it alone must answer the "
    f"question. {_RULES.format(passages='passage', where='passage')} Write exactly two lines:\n"
    "Question: …\nAnswer: …"
)
TWO_HOP = (
    "You write a question for a quiz about a document collection. Two passages are given. The question must need both: "
    "the first passage tells who or what is meant, the second holds the answer, and the question describes the thing "
    f"that links them without naming it. {_RULES.format(passages='passages', where='second passage')} Also write the "
    "two simple questions that lead to the answer, one after the other; the second names the answer to the first. "
    "Write exactly four lines:\nQuestion: …\nAnswer: …\nFirst: …\nSecond: …"
)
_LABELS = ("question", "answer", "first", "second")
_QUOTES = "\"'“”‘’*` "


@dataclass(frozen=True, slots=True)
class Written:
    """What a reply says."""

    question: str
    answer: str
    sub_questions: tuple[str, ...] = ()


def prompt(passages: tuple[Passage, ...]) -> Prompt:
    """Of one passage a one-hop question, of two a two-hop question."""
    if len(passages) == 1:
        return Prompt("writer", ONE_HOP, "Passage:", passages=(passages[0].contents,))
    first, second = passages
    shown = (f"First passage: {first.contents}", f"Second passage: {second.contents}")
    return Prompt("writer", TWO_HOP, "Passages:", passages=shown)


def read(reply: str, num_passages: int) -> Written | None:
    """None where a line is missing."""
    said: dict[str, str] = {}
    for line in reply.splitlines():
        label, colon, text = line.replace("：", ":", 1).partition(":")
        label = re.sub(r"[\W\d]", "", label).lower()  # however it is set off: **Question**, 2. Answer
        if colon and label in _LABELS and text.strip(f"{_QUOTES}.。"):
            said.setdefault(label, text.strip(_QUOTES))
    needed = _LABELS[: 2 * num_passages]
    if any(label not in said for label in needed):
        return None
    sub_questions = (said["first"], said["second"]) if num_passages == 2 else ()
    return Written(said["question"], said["answer"].rstrip(".。").strip(_QUOTES), sub_questions)
