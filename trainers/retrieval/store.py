"""Checked training lines on disk: texts in an Arrow file, numbers in flat arrays, all memory-mapped.

store = open_store([path], cache=Path("data/.records"), parse=parse_record, prompt_format="{prompt}{query}")
store.rows[17]["texts"], store.index["positives"][17], store.report.duplicates

A folder per set of files, named by their content: a second run finds it there, a changed file has another. It is
written aside and renamed when it is complete.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import TypeAdapter

from jointrag.progress import progress
from trainers.retrieval.first_pass import INDEX, TEXTS, Report, check_and_store
from trainers.retrieval.json_file import check_file
from trainers.retrieval.lines import Line

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)
_VERSION = 1  # raise it when the same lines are stored otherwise
_FILES = ("rows.arrow", "index.bin", "texts.bin")
_HASHED = 8 << 20  # bytes hashed between two signs of progress


class Store:
    """What `open_store` opened. Pickles as its folder, so that data loader workers share it."""

    def __init__(self, folder: Path, paths: tuple[Path, ...], report: Report) -> None:
        from datasets import Dataset

        self.folder, self.paths, self.report = folder, paths, report
        self.rows: Dataset = Dataset.from_file(str(folder / "rows.arrow"))
        self.index = _mapped(folder / "index.bin", INDEX)
        self.texts = _mapped(folder / "texts.bin", TEXTS)

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.folder, self.paths, self.report)

    def where(self, record: int) -> str:
        """`FILE, line N` of a record."""
        return f"{self.paths[self.index['file'][record]]}, line {self.index['line'][record]}"


def open_store(
    paths: Sequence[Path], *, cache: Path, parse: Callable[[dict[str, Any]], Line], prompt_format: str
) -> Store:
    """The store of `paths` under `cache`; where it is not there yet one process builds it and the others wait.

    Raises ValueError, with file, line and remedy, for the first line that cannot be used.
    """
    _check_prompt_format(prompt_format)
    paths = tuple(paths)
    if not paths:
        raise ValueError("no training file was given")
    for path in paths:
        check_file(path)
        if paths.count(path) > 1:
            raise ValueError(f"{path} is given twice")
    stamps = [_stamp(path) for path in paths]
    folder = cache / _key(paths, parse.__name__, prompt_format)
    cache.mkdir(parents=True, exist_ok=True)
    names = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    with _alone(cache / f".{folder.name}.lock", names):
        report = _read_report(folder)
        if report is None:
            partial = cache / f".{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            shutil.rmtree(folder, ignore_errors=True)  # damaged
            try:
                report = check_and_store(paths, partial, parse=parse, prompt_format=prompt_format)
                if [_stamp(path) for path in paths] != stamps:
                    raise ValueError(f"{names} changed while being read; start again when the writing is over")
                _write_report(partial, report)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s: %s", names, report)
    return Store(folder, paths, report)


@contextmanager
def _alone(path: Path, names: str) -> Iterator[None]:
    """One process at a time; a killed one lets go."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s: another process checks it; waiting", names)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_prompt_format(prompt_format: str) -> None:
    try:
        fits = "QUERY" in prompt_format.format(prompt="PROMPT", query="QUERY")
    except (LookupError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise ValueError(
            f"the prompt format {prompt_format!r} has to be like '{{prompt}}{{query}}', or '{{query}}' to leave "
            "prompts out; other braces are doubled"
        )


def _key(paths: Sequence[Path], parser: str, prompt_format: str) -> str:
    """A hash of the files' contents and of all else that decides what is stored."""
    import xxhash

    digest = xxhash.xxh3_128(f"{_VERSION} {parser} {prompt_format}".encode())
    for path in paths:
        of_file = xxhash.xxh3_128()
        num_blocks = -(-path.stat().st_size // _HASHED)
        with path.open("rb") as file:
            for _ in progress(range(num_blocks), f"hashing {path.name}, parts of 8 MB"):
                of_file.update(file.read(_HASHED))
        digest.update(of_file.digest())
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _write_report(folder: Path, report: Report) -> None:
    sizes = {name: (folder / name).stat().st_size for name in _FILES}
    text = json.dumps({"sizes": sizes, "report": asdict(report)}, indent=1)
    (folder / "report.json").write_text(text, encoding="utf-8")  # the folder is not in its place yet


def _read_report(folder: Path) -> Report | None:
    """None where the folder is missing or not whole."""
    try:
        content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != content["sizes"][name] for name in _FILES):
            return None
        return TypeAdapter(Report).validate_python(content["report"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not path.stat().st_size:  # a memory map of nothing is refused
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
