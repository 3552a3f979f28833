"""The vectors of a corpus: fp16 .npy files of some thousand passages each, made one by one, wherever that is done.

    shards = Shards.plan(out / "vectors", corpus=out / "corpus", corpus_fingerprint=…, model=Path("…/model"))
    for number in shards.missing():
        shards.encode(number, encoder)          # here, or in any process: Shards.open(out / "vectors")
    vectors = shards.vectors()
    vectors[np.array([3, 17])]                  # float32 [2, dim], read through memory maps

A file's name holds the fingerprint of corpus, model and settings, and the file is complete when it has this name: what
an interrupted run has made is kept, what was made from anything else never counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jointrag.corpus import Corpus
from jointrag.encoder_backends import Backend
from jointrag.encoders import Encoder, fingerprint
from jointrag.jsonl import write_atomically

logger = logging.getLogger(__name__)
_PLAN = "plan.json"
_TEXTS_AT_ONCE = 4096  # sorted by length together, and a step of the progress bar


@dataclass(frozen=True)
class Plan:
    """What plan.json says: all that a process needs that makes a shard."""

    fingerprint: str
    num_passages: int
    shard_size: int
    truncate_dim: int | None
    corpus: str  # relative to the folder of the plan
    model: str  # absolute
    encoder_backend: Backend


class Shards:
    """See the module."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.details = plan

    @classmethod
    def plan(
        cls,
        folder: Path,
        *,
        corpus: Path,
        corpus_fingerprint: str,
        model: Path,
        shard_size: int = 16_384,
        truncate_dim: int | None = None,
        encoder_backend: Backend = "torch",
    ) -> Shards:
        """Write down in `folder` what is to be made; shards of another plan are removed.

        `corpus`: a folder that jointrag.corpus.build wrote; `model`: the encoder's. Every shard has `shard_size`
        passages, but for the last one. `encoder_backend`: how it computes.
        """
        num_passages = len(Corpus.open(corpus))
        content = [corpus_fingerprint, fingerprint(model), shard_size, truncate_dim, encoder_backend]
        plan = Plan(
            hashlib.sha256(json.dumps(content).encode()).hexdigest(),
            num_passages,
            shard_size,
            truncate_dim,
            os.path.relpath(corpus.resolve(), folder.resolve()),
            str(model.resolve()),
            encoder_backend,
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _PLAN, json.dumps(asdict(plan), indent=2) + "\n")
        shards = cls(folder, plan)
        shards._remove_others()
        return shards

    @classmethod
    def open(cls, folder: Path) -> Shards:
        """What `plan` wrote. Raises ValueError where it did not, or not to the end."""
        path = folder / _PLAN
        try:
            return cls(folder, Plan(**json.loads(path.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file; build the index again") from None
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: damaged ({error}); build the index again") from None

    def __len__(self) -> int:
        return -(-self.details.num_passages // self.details.shard_size)

    @property
    def fingerprint(self) -> str:
        """Of corpus, model and settings."""
        return self.details.fingerprint

    @property
    def model(self) -> Path:
        return Path(self.details.model)

    @cached_property
    def corpus(self) -> Corpus:
        return Corpus.open(self.folder / self.details.corpus)

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}-{self.fingerprint[:16]}.npy"

    def size(self, number: int) -> int:
        """How many passages shard `number` has."""
        if not 0 <= number < len(self):
            raise IndexError(f"shard {number} of {len(self)}")
        return min(self.details.shard_size, self.details.num_passages - number * self.details.shard_size)

    def missing(self) -> list[int]:
        """The shards still to be made. A file that is cut or damaged counts as missing."""
        return [number for number in range(len(self)) if self.damage(number) is not None]

    def num_steps(self, numbers: Sequence[int]) -> int:
        """How often `encoding` yields for these shards."""
        return sum(-(-self.size(number) // _TEXTS_AT_ONCE) for number in numbers)

    def encode(self, number: int, encoder: Encoder, batch_size: int = 256) -> Path:
        """Make one shard; returns its file. Raises ValueError for a vector that has numbers which are none."""
        for _ in self.encoding(number, encoder, batch_size):
            pass
        return self.path(number)

    def encoding(self, number: int, encoder: Encoder, batch_size: int = 256) -> Iterator[int]:
        """The same, step by step: yields the number of passages embedded. The last step writes the file."""
        start, size = number * self.details.shard_size, self.size(number)
        vectors: NDArray[np.float16] | None = None
        for at in range(0, size, _TEXTS_AT_ONCE):
            stop = min(at + _TEXTS_AT_ONCE, size)
            texts = [self.corpus[start + i].contents for i in range(at, stop)]
            block = cut(encoder.encode(texts, kind="passage", batch_size=batch_size), self.details.truncate_dim)
            if not np.isfinite(block).all():
                worst = start + at + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise ValueError(
                    f"the vector of passage {self.corpus[worst].id!r} has numbers that are none; "
                    "does the encoder overflow in half precision?"
                )
            if vectors is None:
                vectors = np.empty((size, block.shape[1]), dtype=np.float16)
            vectors[at:stop] = block
            if stop == size:
                self._write(number, vectors)
            yield stop - at

    def take_over(self, other: Path) -> int:
        """Take the shards that folder `other` has of the same fingerprint, as links to the same files where the disk
        allows; returns how many. Vectors need not be made again for another kind of index."""
        theirs = Shards(other, self.details)
        taken = 0
        for number in self.missing():
            if theirs.damage(number) is None:
                path = self.path(number)
                aside = path.with_name(f".{path.name}.{_process()}")
                try:
                    os.link(theirs.path(number), aside)
                except OSError:
                    shutil.copyfile(theirs.path(number), aside)
                aside.replace(path)
                taken += 1
        return taken

    def tidy(self) -> None:
        """Remove what killed processes left aside. Call it when nothing is missing."""
        for path in self.folder.glob(".*"):
            path.unlink(missing_ok=True)

    def vectors(self) -> Vectors:
        """All vectors. Raises ValueError where a shard is missing or damaged."""
        for number in range(len(self)):
            if damage := self.damage(number):
                raise ValueError(f"{self.path(number)}: {damage}; build the index again")
        return Vectors([np.load(self.path(number), mmap_mode="r") for number in range(len(self))])

    def _write(self, number: int, vectors: NDArray[np.float16]) -> None:
        path = self.path(number)
        aside = path.with_name(f".{path.name}.{_process()}")
        with aside.open("wb") as file:
            np.save(file, vectors)
        aside.replace(path)

    def damage(self, number: int) -> str | None:
        """What is wrong with the file of shard `number`; None: it is there and whole."""
        path = self.path(number)
        try:
            found = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            return "no such file"
        except (ValueError, EOFError, OSError) as error:
            return f"damaged ({error})"
        if found.dtype != np.float16 or found.ndim != 2 or len(found) != self.size(number):
            return f"{found.dtype} {found.shape} where {self.size(number)} fp16 vectors were expected"
        return None

    def _remove_others(self) -> None:
        for path in self.folder.glob("*.npy"):
            if not path.stem.endswith(self.fingerprint[:16]):
                path.unlink()


class Vectors:
    """fp16 vectors [passages, dim] on disk, read through memory maps: what is read stays in memory only as long as
    nothing else needs the room."""

    def __init__(self, shards: list[NDArray[np.float16]]) -> None:
        """`shards`: of equal length, but for the last one."""
        self._shards = shards
        self._shard_size = len(shards[0])
        widths = {shard.shape[1] for shard in shards}
        if len(widths) > 1:
            raise ValueError(f"shards with vectors of {sorted(widths)} dimensions; build the index again")
        (self.dim,) = widths

    def __len__(self) -> int:
        return self._shard_size * (len(self._shards) - 1) + len(self._shards[-1])

    def blocks(self, size: int = 16_384) -> Iterator[NDArray[np.float16]]:
        """All vectors in order, at most `size` at a time."""
        for shard in self._shards:
            for start in range(0, len(shard), size):
                yield shard[start : start + size]

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors at `positions` [n], float32 [n, dim]. They are read in the order of the disk; positions that are
        in this order already are quickest."""
        if len(positions) and (np.diff(positions) < 0).any():
            order = np.argsort(positions, kind="stable")
            found = np.empty((len(positions), self.dim), dtype=np.float32)
            found[order] = self[positions[order]]
            return found
        found = np.empty((len(positions), self.dim), dtype=np.float32)
        bounds = np.searchsorted(positions, self._shard_size * np.arange(len(self._shards) + 1))
        for number, (first, last) in enumerate(pairwise(bounds)):
            if first < last:
                found[first:last] = self._shards[number][positions[first:last] - number * self._shard_size]
        return found


def cut(vectors: NDArray[np.float32], dim: int | None) -> NDArray[np.float32]:
    """The first `dim` dimensions of `vectors` [n, any] at unit length; None: as they are."""
    if dim is None or dim == vectors.shape[1]:
        return vectors
    if dim > vectors.shape[1]:
        raise ValueError(f"index.truncate_dim={dim}: the encoder's vectors have {vectors.shape[1]} dimensions only")
    kept = vectors[:, :dim]
    return kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)


def _process() -> str:
    return f"{socket.gethostname()}.{os.getpid()}"
