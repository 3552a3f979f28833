"""What goes into a ranking and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Document:
    text: str | None
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return self.text is None or not self.text.strip()


AnyDocument: TypeAlias = str | Mapping[str, Any] | Document | None


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a document that a score comes from: tokens and characters from start up to, not including, end."""

    start_token: int
    end_token: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Score:
    """What a ranker makes of one pair. `window`: of a document read in parts, the one that counted. `unread_tokens`:
    how many tokens of the document no model has seen."""

    value: float
    window: Window | None = None
    unread_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document in a ranking. `index`: its place in the caller's list, from 0; `rank`: its place here, from 1."""

    index: int
    document: Document
    score: float
    rank: int
    window: Window | None = None
    unread_tokens: int = 0

    @property
    def text(self) -> str | None:
        return self.document.text

    @property
    def id(self) -> str | None:
        return self.document.id

    @property
    def doc_id(self) -> int:
        """RAG-Retrieval's name for `index`."""
        return self.index

    @property
    def passage(self) -> str | None:
        """The text of the window that counted; the whole text where it was read as one."""
        if self.window is None or self.text is None:
            return self.text
        return self.text[self.window.start : self.window.end]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, in which a score that is not finite has no number: null."""
        row = {"rank": self.rank, "index": self.index, "id": self.id, "score": self.score, "text": self.text}
        if self.score in (float("inf"), float("-inf")):
            row["score"] = None
        if self.window is not None:
            row["window"] = asdict(self.window)
        if self.unread_tokens:
            row["unread_tokens"] = self.unread_tokens
        if self.document.metadata:
            row["metadata"] = dict(self.document.metadata)
        return row


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Ranked]):
    """Documents, best first."""

    query: str
    results: tuple[Ranked, ...]

    def results_count(self) -> int:
        """RAG-Retrieval's name for the length."""
        return len(self.results)

    def top_k(self, k: int) -> tuple[Ranked, ...]:
        """The best `k`, all if there are fewer."""
        return self.results[:k]

    def get_score_by_docid(self, doc_id: int | str) -> float | None:
        """The score of the document with this id (a number: this place in the caller's list); None where it is not in
        the ranking."""
        for one in self.results:
            if doc_id in (one.id, one.index if isinstance(doc_id, int) else None):
                return one.score
        return None

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.results)


def as_document(given: AnyDocument, place: int) -> Document:
    """Raises ValueError, with the document's place in the caller's list, for what is none."""
    if isinstance(given, Document):
        return given
    if given is None or isinstance(given, str):
        return Document(given)
    if isinstance(given, Mapping):
        text = given.get("text", given.get("contents"))
        if ("text" in given or "contents" in given) and (text is None or isinstance(text, str)):
            known = given.get("id")
            extra = {name: value for name, value in given.items() if name not in ("text", "contents", "id", "metadata")}
            metadata = given.get("metadata") or {}
            return Document(text, None if known is None else str(known), {**extra, **metadata})
    raise ValueError(f'document {place}: {given!r:.60} is neither a text nor {{"text": …}} (with id, metadata)')
