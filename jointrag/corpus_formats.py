r"""The passages of a corpus file, one after the other, and what stands where one should be.

    for number, passage in read(Path("psgs_w100.tsv.gz")):      # lines from 1; Passage or BadLine

    .jsonl    {"id": "12", "title": "Silent Harbor", "text": "…"}   title may be missing, "_id" is fine
              {"id": "12", "contents": "\"Silent Harbor\"\n…"}      the title is the first line
    .tsv      id, text, title under a header of these names, quoted as in CSV (DPR's Wikipedia passages)
    .parquet  columns of these names; ids may be numbers

The first two kinds may be gzipped. What cannot be read costs no line but its own.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import count, islice
from pathlib import Path
from typing import Any

from jointrag.types import Passage

FORMATS = (".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")
_NOT_JSON, _NOT_UTF8, _NOT_TSV = "not a JSON object", "not in UTF-8", "not a row of tab-separated values"
_NO_PASSAGE, _NO_TEXT = "without the fields of a passage", "without text"
_FIELDS = ("id", "title", "text", "contents")
_IGNORED = {"metadata"}  # BEIR's and FlashRAG's corpora have it
_ROWS_AT_ONCE = 8_192  # of a Parquet file in memory

Numbered = tuple[int, "Passage | BadLine"]


class BadLine(ValueError):
    """A line that is no passage: the kind of problem, and a sentence for the user."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def read(source: Path) -> Iterator[Numbered]:
    """Raises ValueError for a file that is not there, damaged as a whole, or of another format."""
    if not source.is_file():
        raise ValueError(f"{source}: no such file")
    name = source.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet(source)
    if not name.endswith((".jsonl", ".tsv")):
        raise ValueError(f"{source}: not a format that is read; give one of {', '.join(FORMATS)}")
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
    rows = _rows(source)
    _, header = next(rows, (1, []))
    if isinstance(header, BadLine):
        raise ValueError(f"{source}, line 1: {header}")
    if not {"id", "text"} <= set(header):
        raise ValueError(
            f"{source}, line 1: expected the names of the columns, id, text and title, found {header!r:.80}"
        )
    for number, row in rows:
        if isinstance(row, BadLine):
            yield number, row
        elif row:  # not a blank line
            yield number, _passage(dict(zip(header, row, strict=True)))


def _rows(source: Path) -> Iterator[tuple[int, list[str] | BadLine]]:
    """Rows, all as long as the first one. A value in quotes may go on in further lines; where no row comes of that, the
    line it began in is the broken one, and the next row may begin in the line below."""
    lines, unread = _lines(source), deque[tuple[int, str | BadLine]]()
    width = 0

    def ahead() -> Iterator[str]:
        for place in count():
            if place == len(unread):
                unread.extend(islice(lines, 1))
            if place == len(unread) or isinstance(line := unread[place][1], BadLine):
                return
            yield line

    while True:
        reader, taken = csv.reader(ahead(), delimiter="\t", strict=True), 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            row = BadLine(_NOT_TSV, f"not a row of tab-separated values ({error}); check its quotes")
        if not unread:
            return
        number, line = unread[0]
        if isinstance(line, BadLine):
            row = line
        assert row is not None
        if row and not isinstance(row, BadLine):
            width = width or len(row)
            if len(row) == width:
                taken = reader.line_num
            else:
                row = BadLine(_NOT_TSV, f"{len(row)} values under {width} columns; check tabs and quotes")
        for _ in range(taken):
            unread.popleft()
        yield number, row


def _parquet(source: Path) -> Iterator[Numbered]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise ValueError(f"{source}: Parquet files need pyarrow: pip install pyarrow") from None
    number = 0
    try:
        file = parquet.ParquetFile(source)
        columns = [name for name in file.schema_arrow.names if name in (*_FIELDS, "_id")]
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
            for row in _rows_of(batch):
                number += 1
                yield number, row if isinstance(row, BadLine) else _of_columns(row)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{source}: damaged, or not a Parquet file ({error})") from None


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | BadLine]:
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        rows = None
    if rows is not None:
        yield from rows
        return
    for place in range(len(batch)):
        try:
            (row,) = batch.slice(place, 1).to_pylist()
        except UnicodeDecodeError as error:
            yield BadLine(_NOT_UTF8, f"not in UTF-8 ({error}); write the file anew")
        else:
            yield row


def _of_columns(row: Mapping[str, Any]) -> Passage | BadLine:
    there = {name: value for name, value in row.items() if value is not None}
    return _passage({name: str(value) if name in ("id", "_id") else value for name, value in there.items()})


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
