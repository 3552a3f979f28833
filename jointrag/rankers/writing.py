"""How a pair becomes tokens: what stands around query and document, and where each is cut.

    writing = Template.of(tokenizer)                                    # as the tokenizer joins two texts
    writing = Template(tokenizer, query_format="A: {}", middle="\nB: ", tail="\nIs B about A?")
    writing = Sentence(tokenizer, "Query: ", "\nDocument: ", "\nRelevant:")   # tokenised as one text
    for written in writing.write(queries, documents, Limits(max_length=512)):
        pieces, unread = written.pieces(Limits(max_length=512))         # what goes through the model

A query gets at most three quarters of the length, as in FlagEmbedding and RAG-Retrieval; its document is cut to what is
left, or read in windows that overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jointrag.rankers.results import Window

logger = logging.getLogger(__name__)
OVERLAP = 80


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of a piece, and what becomes of a document that does not fit: cut, or read in windows of which
    neighbours share `overlap` tokens. None: OVERLAP, or a quarter of what fits beside the query where that is less."""

    max_length: int
    windows: bool = False
    overlap: int | None = None

    @property
    def query(self) -> int:
        return self.max_length * 3 // 4

    def shared(self, room: int) -> int:
        """Tokens that neighbouring windows of `room` tokens share."""
        return min(OVERLAP, room // 4) if self.overlap is None else self.overlap


@dataclass(frozen=True, slots=True)
class Piece:
    """A pair as the model reads it, with the whole document or a window. `num_first`: how many of the tokens are
    before the document, of type 0 in models that tell the two apart."""

    ids: list[int]
    num_first: int
    window: Window


@dataclass(frozen=True, slots=True)
class Written:
    """A pair in tokens. `offsets`: the characters that each token of the document stands for. `free`: how many of the
    tokens around it do not count towards the maximum length."""

    before: list[int]
    document: list[int]
    after: list[int]
    offsets: Sequence[tuple[int, int]]
    free: int = 0

    def pieces(self, limits: Limits) -> tuple[list[Piece], int]:
        """What goes through the model, and how many tokens of the document never do.

        Raises ValueError for a maximum length without room for a document.
        """
        room = max(0, limits.max_length - len(self.before) - len(self.after) + self.free)
        overlap = limits.shared(room) if limits.windows else 0
        least = 1 + overlap
        if room < least:
            raise ValueError(
                f"max_length={limits.max_length} leaves {room} tokens to the document, and {least} are needed; "
                "raise max_length" + (" or lower overlap" if limits.windows else "")
            )
        if not limits.windows:
            return [self._piece(0, room)], max(0, len(self.document) - room)
        starts = range(0, max(1, len(self.document) - overlap), room - overlap)
        return [self._piece(start, start + room) for start in starts], 0

    def _piece(self, start: int, end: int) -> Piece:
        end = min(end, len(self.document))
        characters = (self.offsets[start][0], self.offsets[end - 1][1]) if end > start else (0, 0)
        ids = [*self.before, *self.document[start:end], *self.after]
        return Piece(ids, len(self.before), Window(start, end, *characters))


class Writing(Protocol):
    def write(self, queries: Sequence[str], documents: Sequence[str], limits: Limits) -> list[Written]:
        """One per pair, in order."""
        ...


class Template:
    """Query and document tokenised each by itself, between fixed tokens. A prefix is tokenised with its text; the
    document's is at the head of every window. `free`: tokens that the maximum length does not count (FlagEmbedding's
    does not count an LLM's instruction)."""

    def __init__(
        self,
        tokenizer: Any,
        head: Sequence[int] = (),
        middle: Sequence[int] = (),
        tail: Sequence[int] = (),
        *,
        query_prefix: str = "",
        document_prefix: str = "",
        free: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._head, self._middle, self._tail = list(head), list(middle), list(tail)
        self._query_prefix, self._document_prefix = query_prefix, document_prefix
        self._free = free
        self._said: set[str] = set()

    @classmethod
    def of(cls, tokenizer: Any, *, query_prefix: str = "") -> Template:
        """What the tokenizer itself puts around two texts. Raises ValueError for a tokenizer without a fast version."""
        backend = backend_of(tokenizer)
        probe = backend.encode("a", "b")
        first, second = (tokens(backend, [text])[0].ids for text in ("a", "b"))
        ids, of = probe.ids, probe.sequence_ids
        start_a, start_b = of.index(0), of.index(1)
        end_a, end_b = start_a + len(first), start_b + len(second)
        assert ids[start_a:end_a] == first and ids[start_b:end_b] == second, "a template between two texts"
        return cls(tokenizer, ids[:start_a], ids[end_a:start_b], ids[end_b:], query_prefix=query_prefix)

    def write(self, queries: Sequence[str], documents: Sequence[str], limits: Limits) -> list[Written]:
        backend = backend_of(self._tokenizer)
        asked = list(dict.fromkeys(queries))
        found = tokens(backend, [self._query_prefix + query for query in asked])
        _say_cut(asked, found, limits, self._said)
        before = {
            query: [*self._head, *encoding.ids[: limits.query], *self._middle]
            for query, encoding in zip(asked, found, strict=True)
        }
        shift = len(self._document_prefix)
        texts = tokens(backend, [self._document_prefix + document for document in documents])
        written = []
        for query, text in zip(queries, texts, strict=True):
            first = _num_before(text, shift)
            opening = before[query] + text.ids[:first] if first else before[query]
            document = text.ids[first:] if first else text.ids
            written.append(Written(opening, document, self._tail, _Shifted(text, shift, first), self._free))
        return written


class Sentence:
    """Query and document in one text, tokenised as a whole: where words of the two touch, the tokens are those that
    the model was trained on. `head` and `tail` are fixed tokens around it."""

    def __init__(
        self,
        tokenizer: Any,
        before: str,
        between: str,
        *,
        head: Sequence[int] = (),
        tail: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._before, self._between = before, between
        self._head, self._tail = list(head), list(tail)
        self._said: set[str] = set()

    def write(self, queries: Sequence[str], documents: Sequence[str], limits: Limits) -> list[Written]:
        backend = backend_of(self._tokenizer)
        asked = list(dict.fromkeys(queries))
        encodings = tokens(backend, asked)
        _say_cut(asked, encodings, limits, self._said)
        opening = {
            query: self._before + _cut(query, encoding, limits.query) + self._between
            for query, encoding in zip(asked, encodings, strict=True)
        }
        starts = [len(opening[query]) for query in queries]
        texts = [opening[query] + document for query, document in zip(queries, documents, strict=True)]
        written = []
        for start, found in zip(starts, tokens(backend, texts), strict=True):
            offsets = found.offsets
            first = next((i for i, (_, end) in enumerate(offsets) if end > start), len(offsets))
            spans = [(max(0, left - start), right - start) for left, right in offsets[first:]]
            written.append(Written([*self._head, *found.ids[:first]], found.ids[first:], self._tail, spans))
        return written


def backend_of(tokenizer: Any) -> Any:
    """The Rust tokenizer, which neither cuts nor pads. Raises ValueError where there is none."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{type(tokenizer).__name__} has no fast version; save the model with one (tokenizer.json) and load that"
        )
    if backend.truncation is not None:  # some are saved with it; changing it fails while another thread encodes
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def tokens(backend: Any, texts: Sequence[str]) -> list[Any]:
    """Of each text by itself, whole, with nothing put around it: encodings with `ids` and `offsets`."""
    return backend.encode_batch(list(texts), add_special_tokens=False)


class _Shifted(Sequence[Any]):
    """Offsets of a text behind a prefix of `shift` characters and `first` tokens, worked out where they are asked for:
    most never are."""

    def __init__(self, encoding: Any, shift: int, first: int) -> None:
        self._encoding, self._shift, self._first = encoding, shift, first

    def __len__(self) -> int:
        return len(self._encoding.ids) - self._first

    def __getitem__(self, index: Any) -> Any:
        start, end = self._encoding.offsets[self._first + index]
        return max(0, start - self._shift), max(0, end - self._shift)


def _num_before(encoding: Any, shift: int) -> int:
    """How many tokens stand for nothing but the prefix."""
    if not shift:
        return 0  # offsets cost time, and are not needed
    return next((i for i, (_, end) in enumerate(encoding.offsets) if end > shift), len(encoding.ids))


def _cut(text: str, encoding: Any, limit: int) -> str:
    return text if len(encoding.ids) <= limit else text[: encoding.offsets[limit - 1][1]]


def _say_cut(queries: Sequence[str], encodings: Sequence[Any], limits: Limits, said: set[str]) -> None:
    """A warning for queries that are cut, once for each."""
    for query, encoding in zip(queries, encodings, strict=True):
        if len(encoding.ids) > limits.query and query not in said:
            said.add(query)
            logger.warning(
                "a query of %d tokens was cut to %d, three quarters of max_length=%d: %.60r",
                len(encoding.ids), limits.query, limits.max_length, query,
            )  # fmt: skip
