"""Exact search over vectors on disk with torch, block by block: a kind of index, and what others are measured against.

    ExactSearch(vectors, device="cuda").nearest(queries, k=10)

On a GPU the vectors are loaded once, as fp16; on a CPU they stay on disk. Products are float32 either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jointrag.index.shards import Vectors

if TYPE_CHECKING:
    import torch

_QUERIES_AT_ONCE, _VECTORS_AT_ONCE = 1024, 16_384  # compared at a time: 64 MiB of scores


class ExactSearch:
    """See the module."""

    def __init__(self, vectors: Vectors, device: str = "auto") -> None:
        """Raises ValueError where the vectors are larger than the GPU's free memory."""
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self._vectors = vectors
        self._loaded: torch.Tensor | None = None
        if self.device.type == "cpu":
            return
        needed = 2 * len(vectors) * vectors.dim
        if self.device.type == "cuda" and needed > (free := torch.cuda.mem_get_info(self.device)[0]):
            raise ValueError(
                f"the vectors take {needed / 2**30:.1f} GiB and {self.device} has {free / 2**30:.1f} GiB free; choose "
                "a Faiss factory that takes less, such as IVF4096,PQ64, or search on the CPU"
            )
        self._loaded = torch.empty((len(vectors), vectors.dim), dtype=torch.float16, device=self.device)
        start = 0
        for block in vectors.blocks(_VECTORS_AT_ONCE):
            self._loaded[start : start + len(block)] = torch.from_numpy(block.copy())
            start += len(block)

    def nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and inner products [queries, k or all] of the nearest vectors, best first."""
        return nearest(queries, self._blocks(), min(k, len(self._vectors)), self.device)

    def _blocks(self) -> Iterator[torch.Tensor]:
        import torch

        if self._loaded is not None:
            yield from self._loaded.split(_VECTORS_AT_ONCE)
        else:
            for block in self._vectors.blocks(_VECTORS_AT_ONCE):
                yield torch.from_numpy(block.astype(np.float32))


def nearest(
    queries: NDArray[np.float32], blocks: Iterable[torch.Tensor], k: int, device: torch.device
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One pass over `blocks` [any, dim], all vectors in order; the best so far of each query are kept beside. `k`: at
    most as many as there are vectors."""
    import torch

    parts = [part.to(device) for part in torch.from_numpy(np.ascontiguousarray(queries)).split(_QUERIES_AT_ONCE)]
    scores = [part.new_empty((len(part), 0)) for part in parts]
    positions = [torch.empty((len(part), 0), dtype=torch.int64, device=device) for part in parts]
    start = 0
    for vectors in blocks:
        block = vectors.to(device=device, dtype=torch.float32)
        for i, part in enumerate(parts):
            best, at = (part @ block.T).topk(min(k, len(block)))
            both = torch.cat([scores[i], best], dim=1)
            scores[i], kept = both.topk(min(k, both.shape[1]))
            positions[i] = torch.cat([positions[i], at + start], dim=1).gather(1, kept)
        start += len(block)
    return torch.cat(positions).cpu().numpy(), torch.cat(scores).cpu().numpy()
