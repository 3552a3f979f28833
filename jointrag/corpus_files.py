r"""Corpora as people have them, read line by line, checked, never wholly in memory.

    copied = copy(Path("psgs_w100.tsv.gz"), Path("corpus.jsonl"), on_bad_line="skip")
    copied.num_passages, str(copied.problems)

    .jsonl    {"id": "12", "title": "Silent Harbor", "text": "…"}   title may be missing, "_id" is fine
              {"id": "12", "contents": "\"Silent Harbor\"\n…"}      the title is the first line
    .tsv      id, text, title under a header of these names, quoted as in CSV (DPR's Wikipedia passages)
    .parquet  columns of these names; ids may be numbers

Lines that are no passage, ids that an earlier line has, passages without text: all are counted, with line numbers, and
refused or left out. The first two kinds of file may be gzipped.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jointrag.config.data import OnBadLine
from jointrag.jsonl import write_jsonl
from jointrag.progress import progress
from jointrag.types import Passage

_FORMATS = (".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")
_NOT_JSON, _NOT_UTF8, _NOT_TSV = "not a JSON object", "not in UTF-8", "not a row of tab-separated values"
_NO_PASSAGE, _NO_TEXT, _TWICE = "without the fields of a passage", "without text", "with an id used before"
_FIELDS = ("id", "title", "text", "contents")
_IGNORED = {"metadata"}  # BEIR's and FlashRAG's corpora have it
_SHOWN = 5  # line numbers of each kind of problem
_ROWS_AT_ONCE = 8_192  # of a Parquet file in memory

Numbered = tuple[int, "Passage | BadLine"]  # from line 1


class BadLine(ValueError):
    """A line that is no passage: the kind of problem, and a sentence for the user."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


@dataclass
class Problems:
    """Which lines of a corpus file cannot be used, and why."""

    source: Path
    first: str = ""  # in full
    counts: Counter[str] = field(default_factory=Counter)  # by kind
    lines: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # the first few, by kind

    def add(self, line: int, problem: BadLine) -> None:
        self.first = self.first or f"{self.source}, line {line}: {problem}"
        self.counts[problem.kind] += 1
        if len(self.lines[problem.kind]) < _SHOWN:
            self.lines[problem.kind].append(line)

    def __str__(self) -> str:
        """`corpus.tsv: 3 lines cannot be used: 2 without text (lines 7, 9), 1 not in UTF-8 (line 12)`."""

        def one(kind: str, count: int) -> str:
            numbers = ", ".join(map(str, self.lines[kind])) + (" …" if count > _SHOWN else "")
            return f"{count:,} {kind} (line{'s' if count > 1 else ''} {numbers})"

        total = self.counts.total()
        kinds = ", ".join(one(kind, count) for kind, count in self.counts.most_common())
        return f"{self.source}: {total:,} line{'s' if total > 1 else ''} cannot be used: {kinds}"


@dataclass(frozen=True, slots=True)
class Copied:
    """What `copy` wrote, what it left out, and which of the wanted ids there are."""

    num_passages: int
    problems: Problems
    found: frozenset[str]


def find(folder: Path) -> Path:
    """The corpus file of a folder: corpus.jsonl, corpus.tsv …  Raises ValueError for none or several."""
    return only_file(folder, "corpus", _FORMATS)


def only_file(folder: Path, name: str, formats: Sequence[str]) -> Path:
    """The file of this name, in whichever of the formats. Raises ValueError for none or several."""
    there = [path for ending in formats if (path := folder / f"{name}{ending}").is_file()]
    if not there:
        others = " or ".join(ending for ending in formats[1:] if not ending.endswith(".gz"))
        raise ValueError(f"{folder / f'{name}{formats[0]}'}: no such file (nor {others})")
    if len(there) > 1:
        raise ValueError(f"{folder}: {' and '.join(path.name for path in there)} are there; keep the one that counts")
    return there[0]


def copy(source: Path, out: Path, on_bad_line: OnBadLine = "refuse", wanted: Collection[str] = ()) -> Copied:
    """Write the passages of `source` to `out`, one JSON object a line, in their order: all of them or no file.

    Raises ValueError naming file, line and remedy for lines that cannot be used, unless they are to be skipped; for a
    file without passages, or of another format.
    """
    problems, found = Problems(source), set[str]()
    hashes, lines = array("q"), array("q")  # of each passage: 16 bytes, where a set of ids would take a hundred

    def good() -> Iterator[Passage]:
        for line, passage in progress(_read(source), f"reading {source.name}, line"):
            if isinstance(passage, BadLine):
                problems.add(line, passage)
                continue
            hashes.append(hash(passage.id))
            lines.append(line)
            if passage.id in wanted:
                found.add(passage.id)
            yield passage

    aside = out.with_name(f".{out.name}.all.{os.getpid()}")
    try:
        write_jsonl(aside, good())
        copies = _later_copies(aside, hashes, lines, problems)
        if problems.counts and on_bad_line == "refuse":
            more = f" · {problems}; or leave them out: on_bad_line=skip" if problems.counts.total() > 1 else ""
            raise ValueError(problems.first + more)
        if not hashes:
            raise ValueError(
                f"{source}: no passages"
                + (f" ({problems})" if problems.counts else "")
                + "; write one JSON object per "
                "line with id, title and text"
            )
        if copies:
            _leave_out(aside, copies)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return Copied(len(hashes) - len(copies), problems, frozenset(found))


def _later_copies(written: Path, hashes: array[int], lines: array[int], problems: Problems) -> set[int]:
    """Places of the passages whose id an earlier one has. The file is read again only where hashes are equal."""
    import numpy as np  # only here: settings are checked with the rest of this file, and at once

    values, counts = np.unique(np.frombuffer(hashes, dtype=np.int64), return_counts=True)
    repeated = set(values[counts > 1].tolist())
    copies: set[int] = set()
    if not repeated:
        return copies
    first_line: dict[str, int] = {}
    with written.open("rb") as file:
        for place, raw in enumerate(file):
            if hashes[place] in repeated:
                passage_id = json.loads(raw)["id"]
                first = first_line.setdefault(passage_id, lines[place])
                if first != lines[place]:
                    sentence = f"passage id {passage_id!r} was used before, in line {first}; ids must be unique"
                    problems.add(lines[place], BadLine(_TWICE, sentence))
                    copies.add(place)
    return copies


def _leave_out(path: Path, places: set[int]) -> None:
    kept = path.with_name(f"{path.name}.kept")
    with path.open("rb") as all_lines, kept.open("wb") as file:
        file.writelines(line for place, line in enumerate(all_lines) if place not in places)
    kept.replace(path)


# ---- formats ---------------------------------------------------------------------------------------------------------


def _read(source: Path) -> Iterator[Numbered]:
    if not source.is_file():
        raise ValueError(f"{source}: no such file")
    name = source.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet(source)
    if not name.endswith((".jsonl", ".tsv")):
        raise ValueError(f"{source}: not a format that is read; give one of {', '.join(_FORMATS)}")
    return _json_lines(source) if name.endswith(".jsonl") else _tab_separated(source)


def _lines(source: Path) -> Iterator[tuple[int, str | BadLine]]:
    try:
        with gzip.open(source, "rb") if source.name.lower().endswith(".gz") else source.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    yield number, BadLine(_NOT_UTF8, f"not in UTF-8 ({error}); save the file in UTF-8")
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{source}: damaged ({error}); download or pack it again") from None


def _json_lines(source: Path) -> Iterator[Numbered]:
    for number, line in _lines(source):
        if isinstance(line, BadLine):
            yield number, line
        elif line.strip():
            yield number, _of_json(line)


def _of_json(line: str) -> Passage | BadLine:
    try:
        row = json.loads(line)
        if "\\ud" in line.lower():  # half a surrogate pair is no character and cannot be written again
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        return BadLine(_NOT_JSON, f"not a JSON object ({error}); write one object per line, in UTF-8")
    if not isinstance(row, dict):
        return BadLine(_NOT_JSON, f"expected an object with id, title and text, found {type(row).__name__}")
    return _passage(row)


def _tab_separated(source: Path) -> Iterator[Numbered]:
    undecoded: list[Numbered] = []

    def decoded() -> Iterator[str]:
        for number, line in _lines(source):
            if isinstance(line, BadLine):
                undecoded.append((number, line))
            else:
                yield line

    rows = csv.reader(decoded(), delimiter="\t")
    header = next(rows, [])
    if not {"id", "text"} <= set(header):
        raise ValueError(
            f"{source}, line 1: expected the names of the columns, id, text and title, found {header!r:.80}"
        )
    while True:
        number = rows.line_num + len(undecoded) + 1
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield number, BadLine(_NOT_TSV, f"not a row of tab-separated values ({error}); check its quotes")
            continue
        if row is None:
            break
        if row and len(row) != len(header):
            sentence = f"{len(row)} values under {len(header)} columns; check tabs and quotes"
            yield number, BadLine(_NOT_TSV, sentence)
        elif row:
            yield number, _passage(dict(zip(header, row, strict=True)))
    yield from undecoded


def _parquet(source: Path) -> Iterator[Numbered]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ValueError(f"{source}: Parquet files need pyarrow: pip install pyarrow") from None
    try:
        file = parquet.ParquetFile(source)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{source}: not a Parquet file ({error})") from None
    number = 0
    columns = [name for name in file.schema_arrow.names if name in (*_FIELDS, "_id")]
    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
        for row in batch.to_pylist():
            number += 1
            row = {name: str(value) if name in ("id", "_id") else value for name, value in row.items()}
            yield number, _passage({name: value for name, value in row.items() if value is not None})


def _passage(row: Mapping[str, Any]) -> Passage | BadLine:
    row = {"id" if name == "_id" else name: value for name, value in row.items() if name not in _IGNORED}
    if unknown := sorted(set(row) - set(_FIELDS)):
        known = ", ".join(_FIELDS)
        return BadLine(_NO_PASSAGE, f"unknown field {unknown[0]!r}; known fields: {known}")
    for name, value in row.items():
        if not isinstance(value, str):
            sentence = f'field {name!r} should be a text in quotes, like "…", found {value!r:.60}'
            return BadLine(_NO_PASSAGE, sentence)
    if "id" not in row:
        return BadLine(_NO_PASSAGE, "field 'id' is missing")
    if ("text" in row) == ("contents" in row):
        both = "text" in row
        return BadLine(_NO_PASSAGE, "has both text and contents; keep one" if both else "field 'text' is missing")
    title, text = (row.get("title", ""), row["text"]) if "text" in row else _title_and_text(row)
    if not text.strip():
        return BadLine(_NO_TEXT, f"passage {row['id']!r} has no text; remove it or give it one")
    return Passage(row["id"], title, text)


def _title_and_text(row: Mapping[str, str]) -> tuple[str, str]:
    """Of contents: as Pyserini and Search-R1 write them, the title in quotes in the first line."""
    first, newline, rest = row["contents"].partition("\n")
    if "title" in row or not newline or not rest.strip():
        return row.get("title", ""), row["contents"]
    return first.strip().removeprefix('"').removesuffix('"'), rest
