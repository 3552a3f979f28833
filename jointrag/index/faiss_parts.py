"""What a Faiss index is made of, whatever it is wrapped in: clusters, a graph, codes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Parts:
    """Of an IndexPreTransform or IndexRefine: what is inside of it."""

    whole: Any
    """The index itself: its parts live no longer than it does."""
    dim: int
    ivf: Any = None
    """The part with clusters, or None."""
    graph: Any = None
    """The HNSW structure, or None. One that only finds clusters is no part."""
    flat: tuple[Any, ...] = ()
    """Every part that keeps codes one after the other."""
    packed_size: int = 0
    """Bytes of a code that is kept in groups (fast scan, without clusters)."""

    @classmethod
    def of(cls, index: Any) -> Parts:
        return replace(cls._of(index), whole=index)

    @classmethod
    def _of(cls, index: Any) -> Parts:
        import faiss

        if isinstance(index, faiss.IndexBinary):
            inner = faiss.downcast_IndexBinary(index)
            if isinstance(inner, faiss.IndexBinaryIVF):
                return cls(index, index.d, ivf=inner)
            if isinstance(inner, faiss.IndexBinaryHNSW):
                return cls(index, index.d, graph=inner.hnsw, flat=(faiss.downcast_IndexBinary(inner.storage),))
            return cls(index, index.d, flat=(inner,) if isinstance(inner, faiss.IndexBinaryFlat) else ())
        inner: Any = faiss.downcast_index(index)
        if isinstance(inner, faiss.IndexPreTransform):
            return cls._of(inner.index)
        if isinstance(inner, faiss.IndexRefine):
            base, refined = cls._of(inner.base_index), cls._of(inner.refine_index)
            return cls(inner, base.dim, base.ivf, base.graph, (*base.flat, *refined.flat), base.packed_size)
        if isinstance(inner, faiss.IndexIVF):
            return cls(inner, inner.d, ivf=inner)
        if isinstance(inner, faiss.IndexHNSW):
            return cls(inner, inner.d, graph=inner.hnsw, flat=cls._of(inner.storage).flat)
        if isinstance(inner, faiss.IndexFastScan):
            codes: Any = inner
            return cls(inner, inner.d, packed_size=codes.code_size)
        return cls(inner, inner.d, flat=(inner,) if isinstance(inner, faiss.IndexFlatCodes) else ())

    @property
    def num_clusters(self) -> int:
        return 0 if self.ivf is None else self.ivf.nlist

    @property
    def num_links(self) -> int:
        """Of a vector in the graph, about: those of the lowest layer, and its share of the others."""
        return 0 if self.graph is None else self.graph.nb_neighbors(0) + 2

    @property
    def num_centroids(self) -> int:
        """Of each product quantiser; 0: codes are no such."""
        quantizers = [getattr(part, "pq", None) for part in (self.ivf, *self.flat)]
        return max((quantizer.ksub for quantizer in quantizers if quantizer is not None), default=0)

    @property
    def bytes_per_vector(self) -> int:
        """In memory, when the index is full."""
        codes = sum(part.code_size for part in self.flat)
        in_clusters = 0 if self.ivf is None else self.ivf.code_size + 8  # the id
        graph = 4 * self.num_links + 12 if self.graph is not None else 0  # with level and offset
        return codes + self.packed_size + in_clusters + graph

    def reserve(self, num_vectors: int) -> None:
        """Room for so many vectors in an empty index, taken once: growing would copy, and need twice the memory."""
        import faiss

        for part in self.flat:
            codes: Any = part.codes if isinstance(part, faiss.IndexFlatCodes) else part.xb
            codes.resize(num_vectors * part.code_size)
            codes.resize(0)  # keeps the room
        if self.graph is not None:
            self.graph.neighbors.resize(num_vectors * self.num_links)
            self.graph.neighbors.resize(0)
