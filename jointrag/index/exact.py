"""Exact search with torch, block by block: a kind of index, and what others are measured against.

    ExactSearch(vectors, device="cuda").nearest(queries, k=10)      # vectors on disk (jointrag.index.shards)
    nearest(queries, blocks, k=10)                                  # arrays, made as they are needed

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
        return nearest(queries, self._blocks(), k, self.device)

    def _blocks(self) -> Iterator[NDArray[np.float32] | torch.Tensor]:
        if self._loaded is not None:
            yield from self._loaded.split(_VECTORS_AT_ONCE)
        else:
            for block in self._vectors.blocks(_VECTORS_AT_ONCE):
                yield block.astype(np.float32)


def nearest(
    queries: NDArray[np.float32],
    blocks: Iterable[NDArray[np.float32] | torch.Tensor],
    k: int,
    device: torch.device | str = "cpu",
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Positions and inner products [queries, k] of the vectors nearest to `queries` [queries, dim], best first.

    One pass over `blocks` [any, dim], parts of all vectors in order; the best so far of each query are kept beside.
    Equal scores: the earlier position first. Fewer than `k` columns where there are fewer vectors. Raises ValueError
    for a product that is not a number.
    """
    import torch

    if k < 1:
        raise ValueError(f"k={k}: ask for at least one text")
    parts = [part.to(device) for part in torch.from_numpy(np.ascontiguousarray(queries)).split(_QUERIES_AT_ONCE)]
    scores = [part.new_empty((len(part), 0)) for part in parts]
    positions = [torch.empty((len(part), 0), dtype=torch.int64, device=device) for part in parts]
    start = 0
    for vectors in blocks:
        block = torch.as_tensor(vectors).to(device=device, dtype=torch.float32)
        for i, part in enumerate(parts):
            best, at = _first(part @ block.T, k)
            scores[i], kept = _first(torch.cat([scores[i], best], dim=1), k)
            positions[i] = torch.cat([positions[i], at + start], dim=1).gather(1, kept)
        start += len(block)
    return torch.cat(positions).cpu().numpy(), torch.cat(scores).cpu().numpy()


def _first(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` highest of each row and their columns, of equal ones the first. Only rows that need it are sorted."""
    best, at = scores.topk(min(k + 1, scores.shape[1]))
    if best[:, :1].isnan().any():
        raise ValueError("a similarity is not a number; does the model give vectors with NaN (fp16 overflow)?")
    equal = (best[:, 1:] == best[:, :-1]).any(dim=1)
    if equal.any():
        in_order, columns = scores[equal].sort(dim=1, descending=True, stable=True)
        best[equal], at[equal] = in_order[:, : best.shape[1]], columns[:, : best.shape[1]]
    return best[:, :k], at[:, :k]
