"""Text to vectors. Queries and passages go through here everywhere, so that a model's prompts are applied once, alike.

encoder = Encoder.load(Path("models/retriever/model"))
encoder.encode(["Who directed Solaris?"], kind="query")   # float32 [1, dim], unit length
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Kind = Literal["query", "passage"]


class Encoder:
    """A sentence-transformers model that gives unit vectors. Not for several threads at a time."""

    def __init__(self, model: SentenceTransformer) -> None:
        self.model = model

    @classmethod
    def load(cls, path_or_name: Path | str, device: str = "auto") -> Encoder:
        """Load a folder or a Hugging Face name; `device` "auto" takes a GPU where there is one.

        Raises ValueError for a folder that does not hold a model.
        """
        if isinstance(path_or_name, Path) and not (path_or_name / "config_sentence_transformers.json").is_file():
            raise ValueError(f"{path_or_name}: not a sentence-transformers model folder; train the retriever again")
        from sentence_transformers import SentenceTransformer

        no_bars_in_logs()
        return cls(SentenceTransformer(str(path_or_name), device=None if device == "auto" else device))

    @property
    def dim(self) -> int:
        dim = self.model.get_embedding_dimension()
        assert dim is not None
        return dim

    def prompt(self, kind: Kind) -> str:
        """What the model wants before each text of this kind; mostly nothing."""
        names = ("query",) if kind == "query" else ("document", "passage", "corpus")
        return next((prompt for name in names if (prompt := self.model.prompts.get(name))), "")

    def encode(self, texts: Sequence[str], kind: Kind, batch_size: int = 256) -> NDArray[np.float32]:
        """Vectors of unit length, float32 [len(texts), dim], in the order of `texts`.

        Batches hold texts of like length. The model's own prompt for `kind` is put before each text, where it has one.
        """
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        encode = self.model.encode_query if kind == "query" else self.model.encode_document
        vectors = encode(list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)
        return np.ascontiguousarray(vectors, dtype=np.float32)


def no_bars_in_logs() -> None:
    """Switch transformers' loading and saving bars off where they would be a line per redraw."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def fingerprint(model: Path) -> str:
    """A hash of a model folder's files: names and contents, the model card aside."""
    digest = hashlib.sha256()
    for path in sorted(path for path in model.rglob("*") if path.is_file() and path.name != "README.md"):
        digest.update(f"{path.relative_to(model).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
