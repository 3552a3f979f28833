"""A Reranker in LlamaIndex, as a postprocessor of nodes (extra `llama-index`).

postprocessor = RerankerPostprocessor(reranker=Reranker("BAAI/bge-reranker-v2-m3"), top_k=10)
index.as_query_engine(similarity_top_k=50, node_postprocessors=[postprocessor])
"""

from __future__ import annotations

from llama_index.core.bridge.pydantic import Field
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from jointrag.reranker import Reranker


class RerankerPostprocessor(BaseNodePostprocessor):
    """Keeps the best `top_k` nodes (None: all), best first, with their new scores. A node is read as an embedding model
    would read it: its text with the metadata that it does not keep from embedding."""

    reranker: Reranker = Field(exclude=True)
    top_k: int | None = None
    normalize: bool = False

    @classmethod
    def class_name(cls) -> str:
        return "RerankerPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("a reranker needs the query: give query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        ranking = self.reranker.rank(query_bundle.query_str, texts, self.top_k, normalize=self.normalize)
        return [NodeWithScore(node=nodes[one.index].node, score=one.score) for one in ranking]
