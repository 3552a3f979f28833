"""Questions of one's own: a file of JSON lines, CSV, TSV or Parquet, with columns of any name, checked line by line.

    path = find_questions(Path("data/mine"), "train")                         # train.jsonl, train.csv …
    placed = read_questions(path, columns={"text": "query", "answers": "gold"})
    where, question = placed[0]

An answer may be a list or a single text; in a table, a cell holds one answer, or several with | between them. What has
no id is numbered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from jointrag.config.data import QuestionField
from jointrag.corpus_files import only_file
from jointrag.datasets.rows import rows
from jointrag.jsonl import in_plain_words
from jointrag.metrics import normalize
from jointrag.types import Question

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
Placed = tuple[str, Question]  # where it stands, for errors
_NAMES: tuple[QuestionField, ...] = get_args(QuestionField)
_LISTS = ("answers", "gold_passages", "sub_questions")
_QUESTION = TypeAdapter(Question)


def find_questions(folder: Path, split: str) -> Path:
    """The file of a split. Raises ValueError for none or several."""
    return only_file(folder, split, FORMATS)


def read_questions(path: Path, columns: Mapping[QuestionField, str]) -> list[Placed]:
    """Questions in order; each has an id of its own and answers. `columns`: what our fields are called there.

    Raises ValueError naming file, line and remedy.
    """
    found: list[Placed] = []
    taken: set[str] = set()
    for number, (place, row) in enumerate(rows(path), 1):
        question = _question(row, columns, place, path, number)
        where = f"{place}: question {question.id!r}"
        if not question.text.strip():
            raise ValueError(f"{where} has no text; remove it or give it one")
        if not question.answers:
            raise ValueError(f'{where} has no answer; give at least one, "answers": ["…"]')
        for answer in question.answers:
            if not normalize(answer):  # an empty response would match it
                raise ValueError(f"{where}: nothing of the answer {answer!r} is left to compare; remove it")
        if question.id in taken:
            raise ValueError(f"{where}: this id was used before; ids must be unique")
        taken.add(question.id)
        found.append((where, question))
    if not found:
        raise ValueError(f"{path}: no questions; write one JSON object per line with id, text and answers")
    return found


def _question(
    row: Mapping[str, Any], columns: Mapping[QuestionField, str], place: str, path: Path, number: int
) -> Question:
    if missing := [theirs for theirs in columns.values() if theirs not in row]:
        known = ", ".join(map(str, row))
        raise ValueError(f"{place}: no column {missing[0]!r} (dataset.columns); there are {known}")
    values = {ours: row[theirs] for ours in _NAMES if (theirs := columns.get(ours, ours)) in row}
    values = {name: value for name, value in values.items() if value is not None}
    if path.suffix == ".jsonl":
        if not columns and (unknown := sorted(set(row) - set(_NAMES))):
            raise ValueError(f"{place}: unknown field {unknown[0]!r}; known fields: {', '.join(sorted(_NAMES))}")
    else:
        values = {name: _cell(name, value) for name, value in values.items()}
    if isinstance(values.get("answers"), str):
        values["answers"] = [values["answers"]]
    values.setdefault("id", f"{path.stem}-{number}")
    try:
        return _QUESTION.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        field: Any = first["loc"][0] if first["loc"] else "question"
        raise ValueError(f"{place}: field {columns.get(field, field)!r} {in_plain_words(first)}") from None


def _cell(name: str, value: Any) -> Any:
    """A table's value: texts for lists, numbers for ids."""
    if name not in _LISTS:
        return str(value)
    if not isinstance(value, str):
        return [str(one) for one in value]
    if value.strip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return [one.strip() for one in value.split("|") if one.strip()]
