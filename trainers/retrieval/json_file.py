"""JSON-lines files of any size, read a block at a time, with errors that name file, line and remedy.

for number, row in read_objects(Path("train.jsonl"), parse):

Stricter and faster than jointrag.jsonl on large files: no data class is made of a line here, `parse` takes the object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from jointrag.progress import progress

T = TypeVar("T")
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


def read_objects(path: Path, parse: Callable[[dict[str, Any]], T]) -> Iterator[tuple[int, T]]:
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
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path} is no plain file; it is read twice, so a pipe will not do")
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


def _blocks(file: BinaryIO, path: Path) -> Iterator[list[bytes]]:
    """Lines, some 8 MB of them at a time."""
    block: list[bytes] = []
    number = size = 0
    while raw := file.readline(_LONGEST):
        number += 1
        if len(raw) == _LONGEST:
            raise ValueError(f"{path}, line {number}: longer than {_LONGEST:,} bytes; write one object per line")
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
        row = json.loads(text, object_pairs_hook=_once, parse_int=float)  # an integer may have any length
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, character {error.pos + 1}); {_json_remedy(text)}") from None
    except RecursionError:
        raise ValueError(f"lists in lists without end; {_json_remedy(text)}") from None
    if isinstance(row, dict):
        if "\\ud" in text or "\\uD" in text:
            _refuse_half_characters(row)
        return row
    raise ValueError(f"{kind_of(row)} where an object is expected; {_json_remedy(text)}")


def _refuse_half_characters(row: dict[str, Any]) -> None:
    """Half a surrogate pair can only come from an escape, is no character and cannot be written again."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half, before = f"\\u{ord(text[error.start]):04x}", text[max(0, error.start - 30) : error.start]
        raise ValueError(
            f"half a surrogate pair, {half}, is no character (after {before!r}); write the file again from its source, "
            "or cut it out"
        ) from None


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


def kind_of(value: Any) -> str:
    """What JSON calls it, with its beginning."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value:g}"
    if isinstance(value, str):
        return f"the text {value!r:.40}"
    return "a list" if isinstance(value, list) else "an object"
