"""Frozen dataclasses as JSON lines: one object a line, errors that name the file and the line, whole files or none."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    get_type_hints(cls)  # a missing import in a data class is our mistake: fail here, by name
    return TypeAdapter(cls)


def write_atomically(path: Path, text: str) -> None:
    """Write aside, then rename: `path` holds the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_jsonl(path: Path, items: Iterable[Any]) -> int:
    """Write dataclasses (or plain dicts) one a line, atomically; returns how many."""
    with JsonlWriter(path) as writer:
        for item in items:
            writer.write(item)
    return writer.count


class JsonlWriter:
    """The same for items that come one after the other: `path` is there when the block has ended without an error."""

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, path.with_name(f".{path.name}.{os.getpid()}")
        self.count = 0

    def __enter__(self) -> JsonlWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._aside.open("w", encoding="utf-8")
        return self

    def write(self, item: Any) -> None:
        row = asdict(item) if is_dataclass(item) and not isinstance(item, type) else item
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.count += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            self._aside.replace(self._path)
        else:
            self._aside.unlink()


def read_jsonl(path: Path, cls: type[T]) -> Iterator[T]:
    """Yield each line of `path` as a `cls` (a dataclass). Blank lines are skipped.

    Raises ValueError naming file, line and remedy for a line that is not JSON or does not fit `cls`.
    """
    for _, item in read_numbered(path, cls):
        yield item


def read_at(path: Path, starts: Iterable[int], cls: type[T]) -> Iterator[T]:
    """The lines of a file that `read_jsonl` could read, by where they start (bytes), in any order."""
    with path.open("rb") as file:
        for start in starts:
            file.seek(int(start))
            yield _adapter(cls).validate_python(json.loads(file.readline()))


def read_numbered(path: Path, cls: type[T], defaults: Mapping[str, Any] | None = None) -> Iterator[tuple[int, T]]:
    """The same with line numbers (from 1), for callers with checks of their own. `defaults` fills missing fields."""
    names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    for number, row in read_rows(path, sorted(names)):
        where = f"{path}, line {number}"
        if unknown := sorted(set(row) - names):
            raise ValueError(f"{where}: unknown field {unknown[0]!r}; known fields: {', '.join(sorted(names))}")
        try:
            yield number, _adapter(cls).validate_python({**(defaults or {}), **row})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or cls.__name__
            raise ValueError(f"{where}: field {field!r} {in_plain_words(first)}") from None


def read_rows(path: Path, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, whatever their fields, with line numbers. `names`: what errors say should be
    in them."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(raw)
                if b"\\ud" in raw.lower():  # half a surrogate pair is no character and cannot be written again
                    json.dumps(row, ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not a JSON object ({error}); write one object per line, in UTF-8") from None
            if not isinstance(row, dict):
                raise ValueError(f"{where}: expected an object with {', '.join(names)}, found {type(row).__name__}")
            yield number, row


def in_plain_words(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as what was expected and what was found."""
    expected = {"tuple_type": 'a list, like ["…"]', "string_type": 'a text in quotes, like "…"'}
    if error["type"] == "missing":
        return "is missing"
    what = expected.get(error["type"]) or error["msg"].replace("Input should be ", "")
    return f"should be {what}, found {error['input']!r:.60}"
