"""A Reranker in LangChain, as a compressor of documents (extra `langchain`).

from langchain_classic.retrievers import ContextualCompressionRetriever

compressor = RerankerCompressor(reranker=Reranker("BAAI/bge-reranker-v2-m3"), top_k=10)
ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
"""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from jointrag.reranker import Reranker


class RerankerCompressor(BaseDocumentCompressor):
    """Keeps the best `top_k` documents (None: all), best first. Each is a copy whose metadata has its score as
    `relevance_score`; where the document was read in windows, the one that counted as `relevant_passage`."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: Reranker
    top_k: int | None = None
    normalize: bool = False

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        texts = [document.page_content for document in documents]
        found = []
        for one in self.reranker.rank(query, texts, self.top_k, normalize=self.normalize):
            document = documents[one.index].model_copy(deep=True)
            document.metadata["relevance_score"] = one.score
            if one.window is not None:
                document.metadata["relevant_passage"] = one.passage
            found.append(document)
        return found
