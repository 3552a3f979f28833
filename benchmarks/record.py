"""What a benchmark leaves behind: a table on the screen and a JSON file."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jointrag.jsonl import write_atomically

PACKAGES = ("torch", "transformers", "sentence-transformers", "peft", "numpy")


@dataclass(frozen=True)
class Case:
    """One comparison. `ratio` is ours / theirs; `target` says what it should be, empty where nothing was promised."""

    case: str
    ours: float
    theirs: float | None
    unit: str
    ratio: float | None
    target: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def compared(
    case: str, ours: float, theirs: float, unit: str, target: str = "", detail: Mapping[str, Any] | None = None
) -> Case:
    return Case(case, _rounded(ours), _rounded(theirs), unit, round(ours / theirs, 3), target, detail or {})


def alone(case: str, ours: float, unit: str, target: str = "", detail: Mapping[str, Any] | None = None) -> Case:
    """A measurement with no other side."""
    return Case(case, _rounded(ours), None, unit, None, target, detail or {})


def table(cases: Sequence[Case]) -> str:
    """In Markdown."""
    lines = ["| case | ours | theirs | unit | ours / theirs | target |", "|---|---|---|---|---|---|"]
    for case in cases:
        theirs = "–" if case.theirs is None else f"{case.theirs:g}"
        ratio = "–" if case.ratio is None else f"{case.ratio:.2f}"
        lines.append(f"| {case.case} | {case.ours:g} | {theirs} | {case.unit} | {ratio} | {case.target or '–'} |")
    return "\n".join(lines)


def environment(machine: str = "", packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What a result was measured on and with."""
    return {"machine": machine or f"{platform.machine()}, {num_cores()} cores", "versions": versions(packages)}


def write(path: Path, cases: Sequence[Case], notes: str, machine: str = "", packages: Sequence[str] = PACKAGES) -> None:
    result = environment(machine, packages) | {"notes": notes, "cases": [asdict(case) for case in cases]}
    write_atomically(path, json.dumps(result, indent=2) + "\n")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident_mib(name: str) -> float:
    """VmRSS: resident now; VmHWM: its peak; RssAnon: now, without mapped files. getrusage's maximum will
    not do: a child starts with its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit("peak memory is read from /proc/self/status, which this system lacks")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields[name].split()[0]) / 1024


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
