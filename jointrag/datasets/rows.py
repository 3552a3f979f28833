"""Rows of the files that questions are in: .json, .jsonl, .csv, .tsv and .parquet; published ones by their split."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jointrag.jsonl import read_rows

Numbered = Iterator[tuple[str, dict[str, Any]]]  # "FILE, row 3", the row

_SPLITS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}
_FORMATS = (".json", ".jsonl", ".tsv", ".parquet")
_WORD = re.compile(r"[a-zA-Z]+")


def find_splits(folder: Path) -> dict[str, Path]:
    """The files of a folder by the split that their names say: train, dev, test. Raises ValueError for none, or two of
    one split."""
    if not folder.is_dir():
        raise ValueError(f"dataset.path={folder}: no such folder; it should hold the published files")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix in _FORMATS):
        named = [_SPLITS[word] for word in map(str.lower, _WORD.findall(path.stem)) if word in _SPLITS]
        for split in named[:1]:
            if split in found:
                raise ValueError(f"{folder}: {found[split].name} and {path.name} are both its {split} split; keep one")
            found[split] = path
    if not found:
        raise ValueError(f"{folder}: no file of a split; its name says train, dev or test, its ending {_FORMATS}")
    return {split: found[split] for split in ("train", "dev", "test") if split in found}


def rows(path: Path) -> Numbered:
    """Every row of `path` with the place it stands at. Raises ValueError for a file that cannot be read."""
    if path.suffix == ".jsonl":
        yield from _json_lines(path)
        return
    read = {".json": _json, ".csv": _comma_separated, ".tsv": _tab_separated, ".parquet": _parquet}[path.suffix]
    for number, row in enumerate(read(path), 1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected an object, found {type(row).__name__}")
        yield where, row


def _json_lines(path: Path) -> Numbered:
    return ((f"{path}, line {number}", row) for number, row in read_rows(path, ("question", "answer")))


def _json(path: Path) -> Iterator[Any]:
    """A list of rows, or {"Data": [rows]} as TriviaQA has it; some sets write lines under this ending."""
    with path.open(encoding="utf-8") as file:
        first = next((line for line in file if line.strip()), "")
    if first.strip().startswith("{") and first.strip().endswith("}"):
        yield from (row for _, row in _json_lines(path))
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); download it again") from None
    yield from content["Data"] if isinstance(content, dict) and "Data" in content else content


def _tab_separated(path: Path, delimiter: str = "\t") -> Iterator[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from csv.DictReader(file, delimiter=delimiter, strict=True)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not a table in UTF-8 ({error})") from None


def _comma_separated(path: Path) -> Iterator[Any]:
    return _tab_separated(path, ",")


def _parquet(path: Path) -> Iterator[Any]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches(1_024):
        yield from batch.to_pylist()
