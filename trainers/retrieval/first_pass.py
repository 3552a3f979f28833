"""The one pass over training files: every line is checked, counted and stored as it comes.

report = check_and_store([Path("train.jsonl")], Path("store"), parse=parse_record, prompt_format="{prompt}{query}")

Writes rows.arrow (the texts), index.bin (INDEX, one per record) and texts.bin (TEXTS, one per text). Memory stays at
one batch of texts, and 8 bytes for each of 16 million hashes when duplicates are counted at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainers.retrieval.json_file import read_objects
from trainers.retrieval.lines import Format, Line, format_of, parse_teacher

# One per record. `question` and TEXTS' `key` are hashes, by which equal questions and equal texts are found.
INDEX = np.dtype(
    [
        ("question", "<u8"),
        ("start", "<i8"),  # of its texts, positives first
        ("line", "<i8"),
        ("row", "<i8"),  # its place among the objects of its file
        ("positives", "<i4"),
        ("negatives", "<i4"),
        ("chars", "<i4"),  # of the query
        ("file", "<i4"),
    ]
)
TEXTS = np.dtype([("key", "<u8"), ("score", "<f8"), ("chars", "<i4")])  # one per text; score NaN: it has none
_BATCH_BYTES, _BATCH_ROWS = 16 << 20, 10_000  # what is held back before it is written
_SORTED = 1 << 24  # hashes sorted at a time


@dataclass(frozen=True)
class Report:
    """What the files hold and what was left out of them: of the whole files, whatever was selected from them."""

    format: Format
    fields: tuple[str, ...]  # of neg, scores, pos_scores, neg_scores
    lines: int  # with an object
    records: int
    questions: int  # distinct, whatever their case and spaces
    positives: int
    negatives: int
    fewest_negatives: int  # of a record
    duplicates: int  # (query, positive) pairs, or a teacher's texts, that occurred before; kept
    empty_texts: int  # left out, as the next three are
    repeated_texts: int  # within a line
    contradictions: int  # negatives that are among the positives of their line
    without_positives: int  # lines whose positives were all empty
    lowest_score: float | None
    highest_score: float | None
    ignored_fields: tuple[str, ...]
    types: tuple[str, ...]  # what FlagEmbedding's `type` says
    joined: str  # the first query that its prompt runs into without a space, or nothing

    def __str__(self) -> str:
        """One line for the log."""
        if self.format == "teacher":
            parts = [f"{self.records:,} texts of a teacher"]
        else:
            graded = self.lowest_score is not None and "neg" not in self.fields
            parts = [
                f"{self.format}: {self.records:,} records of {self.questions:,} questions",
                f"{self.positives:,} {'scored texts' if graded else 'positives'}",
            ]
        if "neg" in self.fields:
            parts.append(f"{self.negatives:,} negatives (at least {self.fewest_negatives:,} each)")
        if self.lowest_score is not None:
            parts.append(f"scores from {self.lowest_score:g} to {self.highest_score:g}")
        counts = (
            (self.duplicates, "duplicates, kept"),
            (self.empty_texts, "empty texts, left out"),
            (self.repeated_texts, "texts repeated within a line, left out"),
            (self.contradictions, "negatives that are positives too, left out"),
            (self.without_positives, "lines with empty positives alone, left out"),
        )
        parts += [f"{count:,} {what}" for count, what in counts if count]
        if self.ignored_fields:
            parts.append(f"fields not used: {', '.join(self.ignored_fields)}")
        return " · ".join(parts)


def check_and_store(
    paths: Sequence[Path], out: Path, *, parse: Callable[[dict[str, Any]], Line], prompt_format: str
) -> Report:
    """Write the lines of `paths`, made by `parse`, into the new folder `out`. Raises ValueError: file, line, remedy."""
    out.mkdir(parents=True)
    with _Writer(out) as writer:
        first: tuple[Path, int, tuple[str, ...]] | None = None
        for file, path in enumerate(paths):
            for row, (number, line) in enumerate(read_objects(path, parse)):
                first = first or (path, number, line.fields)
                if line.fields != first[2]:
                    raise ValueError(_mixed(path, number, line.fields, *first))
                query = prompt_format.format(prompt=line.prompt, query=line.query) if line.prompt else line.query
                if line.prompt and not writer.joined and _runs_together(line, query):
                    writer.joined = query
                writer.add(line, query, file=file, number=number, row=row)
        if first is None:
            raise ValueError(f"{paths[0]} holds blank lines alone")
        if not writer.num_records:
            raise ValueError(f"{paths[0]}: all {writer.lines:,} lines have empty texts alone")
        writer.flush()
    pairs = _mapped(out / "pairs.bin", np.dtype("<u8"))
    questions = _mapped(out / "index.bin", INDEX)["question"]
    distinct = _distinct(questions)
    duplicates = len(pairs) - _distinct(pairs) if len(pairs) else len(questions) - distinct
    (out / "pairs.bin").unlink()
    format_: Format = "teacher" if parse is parse_teacher else format_of(first[2])
    return writer.report(format_, first[2], questions=distinct, duplicates=duplicates)


def _runs_together(line: Line, query: str) -> bool:
    """Is there nothing between prompt and query where a Latin script has a space?"""
    meeting = line.prompt[-1] + line.query[0]
    return f"{line.prompt}{line.query}" in query and meeting.isascii() and not any(map(str.isspace, meeting))


def _mixed(
    path: Path, number: int, fields: tuple[str, ...], first: Path, first_number: int, of: tuple[str, ...]
) -> str:
    at = f"line {first_number}" if path == first else f"{first}, line {first_number}"
    here, there = (", ".join(("query", "pos", *names)) for names in (fields, of))
    return (
        f"{path}, line {number}: it has {here}, and {at} has {there}; files that are trained on together hold one "
        "format: give all lines the same of these fields, or train on one part after the other"
    )


# ---- writing ---------------------------------------------------------------------------------------------------------


class _Text(NamedTuple):
    position: int  # in its line
    encoded: bytes  # UTF-8: hashed and stored without encoding it twice
    key: int
    score: float  # or NaN
    chars: int


class _Writer:
    """Appends records to the files of a folder, a batch at a time, and counts."""

    def __init__(self, out: Path) -> None:
        import pyarrow as pa
        import xxhash

        self._hash: Callable[[bytes], int] = xxhash.xxh3_64_intdigest
        self._arrow = pa
        self._schema = pa.schema([("query", pa.string()), ("texts", pa.list_(pa.string()))])
        self._rows = pa.OSFile(str(out / "rows.arrow"), "wb")
        self._stream = pa.ipc.new_stream(self._rows, self._schema)
        self._files = {name: (out / f"{name}.bin").open("wb") for name in ("index", "texts", "pairs")}
        self._start_batch()
        self.lines = self.num_records = self._num_texts = 0
        self._positives = self._negatives = 0
        self._empty = self._repeated = self._contradictions = self._without_positives = 0
        self._fewest_negatives: int | None = None
        self._lowest, self._highest = math.inf, -math.inf
        self._ignored: set[str] = set()
        self._types: set[str] = set()
        self.joined = ""

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._rows.close()
        for file in self._files.values():
            file.close()

    def _start_batch(self) -> None:
        self._batch: list[tuple[bytes, list[bytes]]] = []
        self._index: list[tuple[int, ...]] = []
        self._texts: list[tuple[int, float, int]] = []
        self._pairs: list[int] = []
        self._batch_bytes = 0

    def add(self, line: Line, query: str, *, file: int, number: int, row: int) -> None:
        self.lines += 1
        self._ignored.update(line.ignored)
        if line.type:
            self._types.add(line.type)
        if not line.query.strip():  # a teacher's text; a record's query is never empty
            self._empty += 1
            return
        question = self._hash(" ".join(line.query.casefold().split()).encode())
        kept = list(self._usable(line))
        positives = sum(text.position < len(line.positives) for text in kept)
        if line.positives and not positives:
            self._without_positives += 1
            return
        negatives = len(kept) - positives
        start = self._num_texts
        self._index.append((question, start, number, row, positives, negatives, len(query), file))
        self._texts += [(text.key, text.score, text.chars) for text in kept]
        self._pairs += [(question * 0x9E3779B97F4A7C15 + text.key) % 2**64 for text in kept[:positives]]
        self._batch.append((query.encode(), [text.encoded for text in kept]))
        self._batch_bytes += len(query) + sum(len(text.encoded) for text in kept)
        self._num_texts += len(kept)
        self.num_records += 1
        self._positives += positives
        self._negatives += negatives
        if self._fewest_negatives is None or negatives < self._fewest_negatives:
            self._fewest_negatives = negatives
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_ROWS:
            self.flush()

    def _usable(self, line: Line) -> Iterator[_Text]:
        """The texts that are not empty and were not there before."""
        seen: dict[int, bool] = {}  # key: is it a positive
        for position, text in enumerate((*line.positives, *line.negatives)):
            if not text.strip():
                self._empty += 1
                continue
            encoded = text.encode()
            key = self._hash(encoded.strip())
            if key in seen:
                if seen[key] and position >= len(line.positives):
                    self._contradictions += 1
                else:
                    self._repeated += 1
                continue
            seen[key] = position < len(line.positives)
            score = math.nan
            if position < len(line.scores):
                score = line.scores[position]
                self._lowest, self._highest = min(self._lowest, score), max(self._highest, score)
            yield _Text(position, encoded, key, score, len(text))

    def flush(self) -> None:
        queries, lists = [query for query, _ in self._batch], [texts for _, texts in self._batch]
        self._stream.write_batch(self._arrow.record_batch([queries, lists], schema=self._schema))
        np.array(self._index, INDEX).tofile(self._files["index"])
        np.array(self._texts, TEXTS).tofile(self._files["texts"])
        np.array(self._pairs, "<u8").tofile(self._files["pairs"])
        self._start_batch()

    def report(self, format_: Format, fields: tuple[str, ...], *, questions: int, duplicates: int) -> Report:
        scored = self._lowest <= self._highest
        return Report(
            format=format_,
            fields=fields,
            lines=self.lines,
            records=self.num_records,
            questions=questions,
            positives=self._positives,
            negatives=self._negatives,
            fewest_negatives=self._fewest_negatives or 0,
            duplicates=duplicates,
            empty_texts=self._empty,
            repeated_texts=self._repeated,
            contradictions=self._contradictions,
            without_positives=self._without_positives,
            lowest_score=self._lowest if scored else None,
            highest_score=self._highest if scored else None,
            ignored_fields=tuple(sorted(self._ignored)),
            types=tuple(sorted(self._types)),
            joined=self.joined,
        )


# ---- counting --------------------------------------------------------------------------------------------------------


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not path.stat().st_size:  # a memory map of nothing is refused
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _distinct(hashes: NDArray[np.uint64], at_once: int = _SORTED) -> int:
    """How many different ones, sorting some `at_once`: all that start with the same bits, then the next."""
    bits = (len(hashes) // at_once).bit_length()
    if not bits:
        return len(np.unique(hashes))
    shift = np.uint64(64 - bits)
    parts = [hashes[start : start + at_once] for start in range(0, len(hashes), at_once)]
    return sum(
        len(np.unique(np.concatenate([part[part >> shift == prefix] for part in parts]))) for prefix in range(1 << bits)
    )
