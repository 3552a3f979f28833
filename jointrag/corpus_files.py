"""Corpora as people have them (jointrag.corpus_formats), copied to JSON lines, checked, never wholly in memory.

    copied = copy(Path("psgs_w100.tsv.gz"), Path("corpus.jsonl"), on_bad_line="skip")
    copied.num_passages, str(copied.problems)

Lines that are no passage, ids that an earlier line has, passages without text: all are counted, with line numbers, and
refused or left out.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jointrag.config.data import OnBadLine
from jointrag.corpus_formats import FORMATS, BadLine, read
from jointrag.jsonl import write_jsonl
from jointrag.progress import progress
from jointrag.types import Passage

_TWICE = "with an id used before"
_SHOWN = 5  # line numbers of each kind of problem


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
    return only_file(folder, "corpus", FORMATS)


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
        for line, passage in progress(read(source), f"reading {source.name}, line"):
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
