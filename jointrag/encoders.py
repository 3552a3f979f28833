"""Text to vectors. Queries and passages go through here everywhere, so that a model's prompts are applied once, alike.

    encoder = Encoder.load(Path("models/retriever/model"))
    encoder.encode(["Who directed Solaris?"], kind="query")   # float32 [1, dim], unit length
    encoder = Encoder.load(Path("models/retriever/model"), backend="bf16")   # faster; see jointrag.encoder_backends

The vectors are those of sentence-transformers' encode, from the model's own modules. Only the work is laid out
differently: texts are tokenised in blocks, a block ahead of the model, and go through it in batches of like length that
a budget of tokens limits.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from jointrag.encoder_backends import Backend, prepare

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)
Kind = Literal["query", "passage"]
BLOCK = 1024  # texts tokenised together
MOST_PADDING = 0.1  # of a batch's tokens


class Encoder:
    """A sentence-transformers model that gives unit vectors. Not for several threads at a time."""

    def __init__(self, model: SentenceTransformer, tokens_per_forward: int | None = None) -> None:
        """`tokens_per_forward`: most tokens that go through the model together, padding included; what suits the device
        unless given. A GPU that runs out of memory gets half of it from then on."""
        self.model = model
        self.tokens_per_forward = tokens_per_forward

    @classmethod
    def load(cls, path_or_name: Path | str, device: str = "auto", backend: Backend = "torch") -> Encoder:
        """Load a folder or a Hugging Face name; `device` "auto" takes a GPU where there is one. `backend`: how the
        model computes (jointrag.encoder_backends).

        Raises ValueError for a folder that does not hold a model, and for a back end that the machine lacks.
        """
        if isinstance(path_or_name, Path) and not (path_or_name / "config_sentence_transformers.json").is_file():
            raise ValueError(f"{path_or_name}: not a sentence-transformers model folder; train the retriever again")
        from sentence_transformers import SentenceTransformer

        no_bars_in_logs()
        model = SentenceTransformer(str(path_or_name), device=None if device == "auto" else device)
        prepare(model, backend)
        return cls(model)

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

        At most `batch_size` texts go through the model together, fewer where they are long. The model's own prompt for
        `kind` is put before each text, where it has one.
        """
        import torch

        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        blocks = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
        self.model.eval()
        with torch.inference_mode():
            for block, features in zip(blocks, self._tokenised(texts, blocks, kind), strict=True):
                vectors[block] = self._encoded(features, kind, batch_size).float().cpu().numpy()
        return vectors

    def _tokenised(self, texts: Sequence[str], blocks: list[list[int]], kind: Kind) -> Iterator[dict[str, Any]]:
        """What the model takes of each block; the next one is made ready meanwhile. A single one needs no thread."""

        def read(block: list[int]) -> dict[str, Any]:
            return dict(self.model.preprocess([texts[i] for i in block], prompt=self.prompt(kind), task=_TASKS[kind]))

        if len(blocks) < 2:
            yield from map(read, blocks)
            return
        with ThreadPoolExecutor(1, thread_name_prefix="tokenise") as thread:
            ahead = thread.submit(read, blocks[0])
            for following in blocks[1:]:
                features = ahead.result()
                ahead = thread.submit(read, following)
                yield features
            yield ahead.result()

    def _encoded(self, features: dict[str, Any], kind: Kind, batch_size: int) -> torch.Tensor:
        """Unit vectors [texts, dim] of a block, on the model's device."""
        import torch

        from jointrag.by_length import split_by_length

        budget = self.tokens_per_forward or (65_536 if self.model.device.type == "cuda" else 2_048)
        if "attention_mask" not in features and "cu_seq_lens_q" not in features:
            return self._forward(features, kind)  # a model of words: nothing is padded
        parts = split_by_length(features, budget, MOST_PADDING, batch_size)
        try:
            found = torch.cat([self._forward(part.features, kind) for part in parts])
        except torch.OutOfMemoryError:
            if all(len(part.rows) == 1 for part in parts):
                raise
        else:
            return found[torch.argsort(torch.cat([part.rows for part in parts])).to(found.device)]
        torch.cuda.empty_cache()
        self.tokens_per_forward = budget // 2
        logger.warning("out of memory: going on with %d tokens at a time", self.tokens_per_forward)
        return self._encoded(features, kind, batch_size)

    def _forward(self, features: dict[str, Any], kind: Kind) -> torch.Tensor:
        import torch
        from sentence_transformers.util import batch_to_device, truncate_embeddings

        vectors = self.model(batch_to_device(dict(features), self.model.device), task=_TASKS[kind])[
            "sentence_embedding"
        ]
        if self.model.truncate_dim is not None:
            vectors = truncate_embeddings(vectors, self.model.truncate_dim)
        return torch.nn.functional.normalize(vectors, dim=1)


_TASKS = {"query": "query", "passage": "document"}


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
