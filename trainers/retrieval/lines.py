"""Lines of training files, checked: what a line may hold, and in which words it is refused.

for number, line in read_objects(Path("train.jsonl"), parse_record):
    line.query, line.positives, line.scores

A line is a JSON object with "query" and "pos", and "neg", "scores", "pos_scores" and "neg_scores" where its format has
them. "prompt_for_query" or "prompt" goes before the query. "pos" and "neg" are a text or a list of texts. All lines of
a file have the same of these fields; others ("id", "pos_id", …) are left alone. A field that is null counts as missing.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from trainers.retrieval.json_file import kind_of

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
        meant = _meant(name.lower())
        if meant and meant not in row:
            raise ValueError(f"the field {name!r} is not known; call it {meant!r}, or take it out")


@cache
def _meant(name: str) -> str | None:
    """The field of ours that `name` looks like."""
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    close = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.8)
    return close[0] if close else None


def _check_fields(fields: tuple[str, ...], row: dict[str, Any]) -> None:
    if "query" not in row and "text" in row:
        raise ValueError('"text" lines are for a teacher\'s vectors; other training needs "query" and "pos"')
    for name in ("query", "pos"):
        if name not in row:
            raise ValueError(f'no field "{name}" among {_quoted(row)}; a line is {{"query": "…", "pos": ["…"], …}}')
    if "scores" in fields and len(fields) > 1:
        other = next(name for name in fields if name != "scores")
        raise ValueError(
            f'"scores" and "{other}": "scores" is for lines whose texts are all in "pos"; '
            + ('call them "pos_scores", and give "neg_scores" as well' if other == "neg" else "keep one of the two")
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
        raise ValueError(f'"{name}" is {kind_of(value)}; give a text in quotes, or a list of them')
    for position, text in enumerate(value, 1):
        _text(f'text {position} of "{name}"', text)
    return value


def _text(what: str, value: Any) -> str:
    what = what if what.endswith('"') else f'"{what}"'
    if not isinstance(value, str):
        hint = "; join its parts into one text" if isinstance(value, (dict, list)) else "; put it in quotes"
        hint = hint if value is not None else "; take it out"
        raise ValueError(f"{what} is {kind_of(value)} where a text is expected{hint}")
    return value


def _scores(name: str, value: Any, of: str, texts: list[str]) -> list[float]:
    values = value if isinstance(value, list) else [value]
    for position, score in enumerate(values, 1):
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            raise ValueError(f'score {position} of "{name}" is {kind_of(score)} where a number is expected')
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


def _quoted(names: Any) -> str:
    return ", ".join(f'"{name}"' for name in names) or "(none)"
