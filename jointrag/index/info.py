"""index.json: what an index is, what it was made from, and which files belong to it. It is written last."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from jointrag.config import IndexSection
from jointrag.encoders import fingerprint
from jointrag.jsonl import write_atomically

INFO = "index.json"
_SAMPLES, _SAMPLE_BYTES = 64, 16_384  # of a large file, read where it is opened


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What index.json says."""

    type: str
    """faiss, torch, bm25 or hybrid."""
    factory: str
    """Faiss's; empty without Faiss."""
    num_passages: int
    dim: int
    """Of the vectors; 0: there are none."""
    index_bytes: int
    """On disk, vectors included, the corpus not."""
    recall_at_10: float | None
    """Of the search by vectors, against exact search over the same ones; None: not measured."""
    corpus_fingerprint: str
    encoder_fingerprint: str
    encoder_dim: int
    encoder_paths: tuple[str, ...]
    """Relative to the index, then absolute: either may be moved with it."""
    vectors_fingerprint: str
    settings: dict[str, Any]
    files: dict[str, str]
    """A hash of each file's size and contents: of all of them, or of samples all over a large file."""

    @property
    def section(self) -> IndexSection:
        """The settings as they were given."""
        return TypeAdapter(IndexSection).validate_python(self.settings)

    def write(self, folder: Path) -> None:
        write_atomically(folder / INFO, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> IndexInfo:
        """Raises ValueError for a folder that holds no finished index."""
        path = folder / INFO
        if not path.is_file():
            raise ValueError(f"{folder}: no {INFO}, so this is not a finished index; build it first")
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            info = cls(**{**row, "encoder_paths": tuple(row["encoder_paths"])})
            assert info.section
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise ValueError(f"{path}: damaged ({error}); build the index again") from None
        return info


def encoder_paths(model: Path, folder: Path) -> tuple[str, ...]:
    return os.path.relpath(model.resolve(), folder.resolve()), str(model.resolve())


def find_encoder(folder: Path, info: IndexInfo) -> Path | None:
    """The model folder that the index was built with; None: it needs none. Raises ValueError when it is gone or
    changed."""
    if not info.encoder_paths:
        return None
    candidates = [(folder.resolve() / path).resolve() for path in info.encoder_paths]  # absolute paths stay as is
    for model in candidates:
        if model.is_dir():
            if fingerprint(model) != info.encoder_fingerprint:
                raise ValueError(f"{model}: not the encoder that {folder} was built with; build the index again")
            return model
    raise ValueError(
        f"{folder}: its encoder is not at {' or '.join(dict.fromkeys(map(str, candidates)))}; put it back there"
    )


def sampled(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """For each file or subfolder of `folder`: its files with a hash of size and contents (see IndexInfo.files)."""
    found = {}
    for name in names:
        path = folder / name
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            found[file.relative_to(folder).as_posix()] = _sampled(file, len(files))
    return found


def check_files(folder: Path, info: IndexInfo) -> None:
    """Raises ValueError for a file that is missing, cut, or not the one that was written."""
    num_beside = Counter(name.partition("/")[0] for name in info.files)
    for name, expected in info.files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path}: no such file; build the index again")
        written = int(expected.partition(" ")[0])
        if (size := path.stat().st_size) != written:
            raise ValueError(f"{path}: {size} bytes where {written} were written; build the index again")
        if _sampled(path, num_beside[name.partition("/")[0]]) != expected:
            raise ValueError(f"{path}: damaged, or of another index (contents differ); build the index again")


def _sampled(path: Path, num_files: int) -> str:
    """`num_files` of a folder share the samples, with 2 each at least: a thousand shards are opened quickly, too."""
    size, samples = path.stat().st_size, max(2, _SAMPLES // num_files)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if size <= samples * _SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for i in range(samples):
                file.seek((size - _SAMPLE_BYTES) * i // (samples - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return f"{size} {digest.hexdigest()}"
