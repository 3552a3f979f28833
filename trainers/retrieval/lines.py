"""Lines of training files, checked: what a line may hold, and in which words it is refused.

for number, line in read_lines(Path("train.jsonl"), parse_record):
    line.query, line.positives, line.scores

A line is a JSON object with "query" and "pos", and "neg", "scores", "pos_scores" and "neg_scores" where its format has
them. "prompt_for_query" or "prompt" goes before the query. "pos" and "neg" are a text or a list of texts. All lines of
a file have the same of these fields; others ("id", "pos_id", …) are left alone. A field that is null counts as missing.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jointrag.progress import progress

T = TypeVar("T")
Format = Literal["pairs", "triplets", "scored", "graded", "flagembedding", "teacher"]

SHAPING = ("neg", "scores", "pos_scores", "neg_scores")  # which of them a line has is its format
_PROMPTS = ("prompt_for_query", "prompt")
_KNOWN = ("query", "pos", "type", "text", *SHAPING, *_PROMPTS)
_OTHER_NAMES = {
    "question": "query",
    "positive": "pos",
    "positives": "pos",
    "negative": "neg",
    "negatives": "neg",
    "label": "pos_scores",
    "labels": "pos_scores",
}
_BLOCK = 8 << 20  # bytes read between two signs of progress
_LONGEST = 256 << 20  # bytes of a line: beyond it the file has no lines
_BINARY = {
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstandard); unpack it first",
    b"PAR1": "a Parquet file; write it as JSON lines first",
    b"\xff\xfe": "UTF-16; convert it, for example with iconv -f utf-16 -t utf-8",
    b"\xfe\xff": "UTF-16; convert it, for example with iconv -f utf-16 -t utf-8",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line's content. `scores` has one per positive, then (where negatives are scored) one per negative."""

    query: str
    prompt: str
    positives: list[str]
    negatives: list[str]
    scores: list[float]
    fields: tuple[str, ...]  # the shaping ones
    type: str | None
    ignored: tuple[str, ...]  # fields that mean nothing here


def format_of(fields: tuple[str, ...]) -> Format:
    """The name of what `fields`, the shaping ones, make."""
    if "scores" in fields:
        return "scored"
    if "neg_scores" in fields:
        return "flagembedding"
    if "pos_scores" in fields:
        return "graded"
    return "triplets" if "neg" in fields else "pairs"


# ---- a file ----------------------------------------------------------------------------------------------------------


def read_lines(path: Path, parse: Callable[[dict[str, Any]], T]) -> Iterator[tuple[int, T]]:
    """(line number from 1, what `parse` makes of its object); blank lines are skipped.

    Raises ValueError with file, line and remedy, for `parse`'s own complaints too. Memory: a block of 8 MB.
    """
    size = check_file(path)
    number = 0
    with path.open("rb") as file:
        blocks = progress(_blocks(file, path), f"checking {path.name}, parts of 8 MB", total=-(-size // _BLOCK))
        for block in blocks:
            for raw in block:
                number += 1
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if not raw.strip():
                    continue
                try:
                    yield number, parse(_object(raw))
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None


def check_file(path: Path) -> int:
    """The size in bytes of what is, by its first bytes, a text file. Raises ValueError otherwise."""
    if path.is_dir():
        files = sorted(item.name for item in path.glob("*.json*"))
        raise ValueError(f"{path} is a folder; give the files in it ({', '.join(files[:3]) or 'no *.jsonl there'})")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    for magic, what in _BINARY.items():
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}")
    if not start:
        raise ValueError(f"{path} is empty")
    return path.stat().st_size


def _blocks(file: Any, path: Path) -> Iterator[list[bytes]]:
    """Lines, some 8 MB of them at a time."""
    block: list[bytes] = []
    size = 0
    while raw := file.readline(_LONGEST):
        if len(raw) == _LONGEST:
            raise ValueError(f"{path} has a line of over {_LONGEST >> 20} MB; write one object per line")
        block.append(raw)
        size += len(raw)
        if size >= _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _object(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 (byte {raw[error.start]:#04x} at position {error.start}); convert the file, for example with "
            "iconv -f gb18030 -t utf-8 (or latin1, cp1252: what it was written in)"
        ) from None
    try:
        row = json.loads(text, object_pairs_hook=_once)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}); {_json_remedy(text)}") from None
    if isinstance(row, dict):
        return row
    raise ValueError(f"{_kind(row)} where an object is expected; {_json_remedy(text)}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is there twice; keep one")
    return row


def _json_remedy(text: str) -> str:
    stripped = text.strip()
    if stripped in ("{", "[", "[{"):
        return "the file spreads an object over lines; write one object per line, for example with jq -c"
    if stripped.startswith("["):
        return "write one object per line, not a list, for example with jq -c '.[]'"
    if stripped.startswith("{") and not text.endswith("\n"):
        return "the file ends within a line: was it copied or written to its end?"
    return 'write one object per line, like {"query": "…", "pos": ["…"]}'


# ---- an object -------------------------------------------------------------------------------------------------------


def parse_record(row: dict[str, Any]) -> Line:
    """A query with its texts. Raises ValueError, without file and line, for anything that is not sound."""
    if any(value is None for value in row.values()):
        row = {name: value for name, value in row.items() if value is not None}
    ignored = tuple(sorted(name for name in row if name not in _KNOWN))
    _refuse_misspelt(ignored, row)
    fields = tuple(name for name in SHAPING if name in row)
    _check_fields(fields, row)
    query = _text("query", row["query"])
    if not query.strip():
        raise ValueError("the query is empty; give it a text, or take the line out")
    positives = _texts("pos", row["pos"])
    if not positives:
        raise ValueError('"pos" is empty; give at least one text, or take the line out')
    negatives = _texts("neg", row["neg"]) if "neg" in row else []
    scores = []
    for name, of, texts in (
        ("scores", "pos", positives),
        ("pos_scores", "pos", positives),
        ("neg_scores", "neg", negatives),
    ):
        if name in row:
            scores += _scores(name, row[name], of, texts)
    kind = row.get("type")
    return Line(
        query, _prompt(row), positives, negatives, scores, fields, kind if isinstance(kind, str) else None, ignored
    )


def parse_teacher(row: dict[str, Any]) -> Line:
    """A text that a teacher has a vector for: {"text"} or {"query"}."""
    names = [name for name in ("text", "query") if row.get(name) is not None]
    if len(names) != 1:
        raise ValueError(f'expected one of "text" and "query", found the fields {_quoted(row)}')
    ignored = tuple(sorted(name for name in row if name not in _KNOWN))
    return Line(_text(names[0], row[names[0]]), _prompt(row), [], [], [], (), None, ignored)


def _refuse_misspelt(ignored: tuple[str, ...], row: dict[str, Any]) -> None:
    """A field that is left alone must not be one of ours under a wrong name."""
    for name in ignored:
        close = difflib.get_close_matches(name.lower(), _KNOWN, n=1, cutoff=0.8)
        meant = _OTHER_NAMES.get(name.lower()) or (close[0] if close else None)
        if meant and meant not in row:
            raise ValueError(f"the field {name!r} is not known; call it {meant!r}, or give {meant!r} as well")


def _check_fields(fields: tuple[str, ...], row: dict[str, Any]) -> None:
    if "query" not in row and "text" in row:
        raise ValueError('"text" lines are for a teacher\'s vectors; other training needs "query" and "pos"')
    for name in ("query", "pos"):
        if name not in row:
            raise ValueError(f'no field "{name}" among {_quoted(row)}; a line is {{"query": "…", "pos": ["…"], …}}')
    if "scores" in fields and len(fields) > 1:
        raise ValueError(
            f'"scores" with {_quoted(fields[:1] if fields[0] != "scores" else fields[1:])}: "scores" is for lines with '
            'all texts in "pos"; call the scores "pos_scores", and those of "neg" "neg_scores"'
        )
    if "neg_scores" in fields and not {"neg", "pos_scores"} <= set(fields):
        missing = "neg" if "neg" not in fields else "pos_scores"
        raise ValueError(f'"neg_scores" without "{missing}"; give both, or take "neg_scores" out')


def _prompt(row: dict[str, Any]) -> str:
    given = [name for name in _PROMPTS if row.get(name)]
    if not given:
        return ""
    if len(given) == 2 and row[given[0]] != row[given[1]]:
        raise ValueError('"prompt" and "prompt_for_query" differ; keep one')
    return _text(given[0], row[given[0]])


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [_text(name, value)]
    if not isinstance(value, list):
        raise ValueError(f'"{name}" is {_kind(value)}; give a text in quotes, or a list of them')
    for position, text in enumerate(value, 1):
        _text(f'text {position} of "{name}"', text)
    return value


def _text(what: str, value: Any) -> str:
    what = what if what.endswith('"') else f'"{what}"'
    if not isinstance(value, str):
        hint = "; join its parts into one text" if isinstance(value, (dict, list)) else "; put it in quotes"
        raise ValueError(f"{what} is {_kind(value)} where a text is expected{hint}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise ValueError(
                f"{what} has half a surrogate pair ({half}), which is no character; write the file again, or cut it"
            ) from None
    return value


def _scores(name: str, value: Any, of: str, texts: list[str]) -> list[float]:
    values = value if isinstance(value, list) else [value]
    for position, score in enumerate(values, 1):
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise ValueError(f'score {position} of "{name}" is {_kind(score)} where a number is expected')
    if len(values) != len(texts):
        raise ValueError(f'{len(texts)} texts in "{of}" but {len(values)} in "{name}"; give one score per text')
    numbers = []
    for position, score in enumerate(values, 1):
        try:
            numbers.append(float(score))
        except OverflowError:
            numbers.append(math.inf)
        if not math.isfinite(numbers[-1]):
            raise ValueError(
                f'score {position} of "{name}" is not a finite number; take its text out, or score it again'
            )
    return numbers


def _kind(value: Any) -> str:
    """What JSON calls it, with its beginning."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value!r:.20}"
    if isinstance(value, str):
        return f"the text {value!r:.40}"
    return "a list" if isinstance(value, list) else "an object"


def _quoted(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in names) or "(none)"
