"""JointRAG: a RAG system whose retriever and agents are trained together.

from jointrag import Reranker
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jointrag.reranker import Reranker

__all__ = ["Reranker"]


def __getattr__(name: str) -> Any:
    """Reranker is imported where it is asked for: nothing else here needs torch."""
    if name == "Reranker":
        from jointrag.reranker import Reranker

        return Reranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
