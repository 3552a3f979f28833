"""Texts with a teacher model's vectors, for distillation as Stella and Jasper do it.

teacher = open_teacher(Path("texts.jsonl"), Path("vectors.mmap"), num_dims=1024, cache=Path("data/.records"))
batches = BatchesByLength(teacher, batch_size=128, seed=0)
[teacher[key] for key in next(iter(batches))]

The texts are JSON lines of {"text"} or {"query"} (with a prompt, if it has one); line n has row n of the vectors, which
are an .npy file, or a bare np.memmap, which does not know its own shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from jointrag.progress import progress
from trainers.retrieval.batches import Key
from trainers.retrieval.lines import parse_teacher
from trainers.retrieval.store import Store, open_store

_CHECKED = 8 << 20  # numbers looked at a time


@dataclass(frozen=True, slots=True)
class TeacherText:
    text: str  # the line's prompt is in front already
    vector: NDArray[np.float32]  # [dims]


class TeacherTexts(Dataset[TeacherText]):
    """Indexed by (epoch, i) as groups are; it shows the same in every epoch. Memory-mapped; pickles as its paths."""

    def __init__(self, store: Store, vectors: Path, num_dims: int | None, dtype: str) -> None:
        self.store = store
        self._given = (store, vectors, num_dims, dtype)
        self.vectors = _map_vectors(vectors, store, num_dims, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return TeacherTexts, self._given

    @property
    def num_dims(self) -> int:
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.store.index)

    def __getitem__(self, key: Key) -> TeacherText:
        row: dict[str, Any] = self.store.rows[key[1]]
        vector = self.vectors[self.store.index["row"][key[1]]]
        return TeacherText(row["query"], vector.astype(np.float32))

    def length(self, key: Key) -> int:
        """Characters."""
        return int(self.store.index["chars"][key[1]])


def open_teacher(
    texts: Path,
    vectors: Path,
    *,
    cache: Path,
    num_dims: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    prompt_format: str = "{prompt}{query}",
) -> TeacherTexts:
    """Check texts and vectors as a whole and open them. `num_dims` and `dtype` say what a bare np.memmap holds; an .npy
    file says so itself.

    Empty texts are left out, with their rows. Raises ValueError: file, line and remedy for a text; both numbers where
    lines and rows differ; the row and its line for a vector that is zero or not finite, of which training would
    become NaN.
    """
    store = open_store([texts], cache=cache, parse=parse_teacher, prompt_format=prompt_format)
    teacher = TeacherTexts(store, vectors, num_dims, dtype)
    _check_vectors(vectors, teacher)
    return teacher


def _map_vectors(path: Path, store: Store, num_dims: int | None, dtype: str) -> NDArray[Any]:
    """[lines, dims], float32 or float16."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file of vectors")
    num_lines, texts = store.report.lines, store.paths[0]
    with path.open("rb") as file:
        bare = file.read(6) != b"\x93NUMPY"
    if bare:
        return _map_bare(path, num_lines, texts, num_dims, dtype)
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers ({error}); write it again with np.save") from None
    if mapped.dtype not in (np.float32, np.float16):
        raise ValueError(f"{path} holds {mapped.dtype}; write it as float32 or float16")
    if mapped.ndim != 2 or len(mapped) != num_lines:
        raise ValueError(
            f"{path} has the shape {mapped.shape}, and {texts} {num_lines:,} lines; there has to be one row per line"
        )
    if num_dims not in (None, mapped.shape[1]):
        raise ValueError(f"{path} has {mapped.shape[1]} dimensions, and num_dims={num_dims}; correct num_dims")
    return np.asarray(mapped)


def _map_bare(path: Path, num_lines: int, texts: Path, num_dims: int | None, dtype: str) -> NDArray[Any]:
    size = path.stat().st_size
    if num_dims is None:
        of_line = size / np.dtype(dtype).itemsize / num_lines
        raise ValueError(
            f"{path} is a bare np.memmap, which does not say its width; give num_dims (with {num_lines:,} "
            f"lines of {dtype} it would be {of_line:g})"
        )
    num_rows = size / (num_dims * np.dtype(dtype).itemsize)
    if num_rows != num_lines:
        other = "float16" if dtype == "float32" else "float32"
        fits = size == num_lines * num_dims * np.dtype(other).itemsize
        raise ValueError(
            f"{path} has {num_rows:,.10g} rows of {num_dims} {dtype} ({size:,} B), and {texts} {num_lines:,} lines; "
            + (f'with dtype="{other}" it fits' if fits else "there has to be one row per line, in the same order")
        )
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(num_lines, num_dims)))


def _check_vectors(path: Path, teacher: TeacherTexts) -> None:
    """Every vector has a finite length above 0."""
    store, vectors = teacher.store, teacher.vectors
    rows_at_once = max(1, _CHECKED // teacher.num_dims)
    for start in progress(range(0, len(vectors), rows_at_once), f"checking {path.name}, parts of 8 million numbers"):
        part = vectors[start : start + rows_at_once]
        lengths = np.einsum("ij,ij->i", part, part, dtype=np.float64)  # float16 squares overflow
        wrong = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
        for row in (wrong + start).tolist():
            i = int(np.searchsorted(store.index["row"], row))
            if i == len(teacher) or store.index["row"][i] != row:
                continue  # of an empty text
            what = "zero" if lengths[row - start] == 0 else "not finite"
            raise ValueError(
                f"{path}, row {row}: the vector of {store.where(i)} is {what}; encode the text again "
                "(float16 ends at 65,504), or take both out"
            )
