"""What flows through the system: passages and questions in, turns and episodes out.

An agent reads an `Episode` and returns the next one with a `Turn` added; trainers read the turns. Nothing here knows a
tensor, a file or a model. All are frozen: a stage never edits what another one made.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passage:
    """One retrievable text. `id` is unique within a corpus."""

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """What retrievers embed and agents read: the title, a newline, the text (the text alone without a title)."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Question:
    """A question and every accepted answer. `gold_passages` and `sub_questions` are empty where a set has none."""

    id: str
    text: str
    answers: tuple[str, ...]
    type: str = ""  # for tables per question type: "one-hop", "bridge" …
    gold_passages: tuple[str, ...] = ()  # passage ids
    sub_questions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved passage and its score (higher is better)."""

    passage: Passage
    score: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an agent says to a language model.

    A chat model gets `instructions` and `content` through its own chat template; a model trained from scratch gets the
    `agent`'s name as a single token and `content`, see `jointrag.prompts`. With `choices` set, the response is
    restricted to a comma-separated list of distinct choices (possibly empty), in any order. `passages` are what may be
    cut where the prompt is too long.
    """

    agent: str
    instructions: str
    opening: str
    choices: tuple[str, ...] | None = None
    passages: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """All of it but the instructions: the opening, usually the question, and the passages, a line each at least."""
        return "\n".join((self.opening, *self.passages))


@dataclass(frozen=True, slots=True)
class Turn:
    """One agent's prompt and response. Token ids and log-probabilities are empty for models behind an API."""

    agent: str
    prompt: str
    response: str
    penalty: float = 0.0  # <= 0: what the response's form costs its agent
    choices: tuple[str, ...] | None = None
    prompt_ids: tuple[int, ...] = ()
    response_ids: tuple[int, ...] = ()  # with the end token, unless the response was cut at max_new_tokens
    logprobs: tuple[float, ...] = ()  # [len(response_ids)], of the distribution sampled from
    values: tuple[float, ...] = ()  # [len(response_ids)], the critic's estimates before each token, where it has a say
    # per response token: the ids it was drawn from, where top-p or top-k cut some off; empty otherwise
    support: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Episode:
    """One question's way through the chain: question → sub-questions → candidates → selected → answer."""

    question: Question
    sub_questions: tuple[str, ...] = ()
    candidates: tuple[Passage, ...] = ()
    selected: tuple[int, ...] | None = None  # positions in candidates; None: no selector, all candidates are read
    condensed: tuple[Passage, ...] | None = None  # what an agent made of them, to be read instead; None: none did
    answer: str = ""
    turns: tuple[Turn, ...] = ()

    @property
    def chosen(self) -> tuple[Passage, ...]:
        """The selected candidates; all of them without a selector."""
        return self.candidates if self.selected is None else tuple(self.candidates[i] for i in self.selected)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """What there is to read for the next agent: what an agent made of the chosen candidates, else these."""
        return self.chosen if self.condensed is None else self.condensed


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised example of one agent: the prompt it would get and the response it should give."""

    id: str
    prompt: Prompt
    response: str
