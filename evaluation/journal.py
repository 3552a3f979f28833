"""Work that is kept as it is done: JSON lines, on disk when `append` returns, read back after a kill.

    path = Path("answers/mappo.jsonl")
    with Journal(path, Answered, belongs_to="what decides the lines", group=128, total=len(questions)) as journal:
        for start in range(len(journal.items), len(questions), 128):
            journal.append(answer(questions[start : start + 128]))
        journal.items

The first line says what the lines belong to; a file of something else is started afresh. A last line that was cut off
is dropped, and so are lines of a group that is not whole: it is then made again in the same company as the first time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


class Journal(Generic[T]):
    """`items`: all that is there, of dataclass `cls`, of which there will be `total`. One process at a time."""

    def __init__(self, path: Path, cls: type[T], *, belongs_to: str, group: int, total: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        header = json.dumps({"belongs_to": belongs_to}).encode() + b"\n"
        content = path.read_bytes() if path.is_file() else b""
        lines = content.splitlines(keepends=True)
        if not lines or lines[0] != header:
            lines = [header]
            _write(path, header)
        self.items, ends = _read(lines, TypeAdapter(cls))
        if len(self.items) < total:  # the last group may be smaller
            del self.items[len(self.items) - len(self.items) % group :]
        self._file = path.open("r+b")
        self._file.truncate(ends[len(self.items)])
        self._file.seek(0, os.SEEK_END)

    def append(self, items: Iterable[T]) -> None:
        """Add items, all of them or, after a kill, none."""
        new = list(items)
        lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in new]  # type: ignore[call-overload]
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.items += new

    def __enter__(self) -> Journal[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _write(path: Path, header: bytes) -> None:
    with path.open("wb") as file:
        file.write(header)
        file.flush()
        os.fsync(file.fileno())


def _read(lines: list[bytes], adapter: TypeAdapter[Any]) -> tuple[list[Any], list[int]]:
    """The items up to the first line that is broken, and where the file would end after 0, 1, 2 … of them."""
    items, ends = [], [len(lines[0])]
    for line in lines[1:]:
        try:
            if not line.endswith(b"\n"):
                break
            items.append(adapter.validate_python(json.loads(line)))
        except (ValueError, ValidationError):
            break
        ends.append(ends[-1] + len(line))
    return items, ends
