"""Rerankers in LangChain and LlamaIndex, against the installed packages."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from jointrag import Reranker
from jointrag.rankers.base import Pair, Ranker
from tests.tiny_cross_encoder import tiny_cross_encoder
from tests.word_rankers import WORDS

TEXTS = ["bb", "", "dddd", "ccc"]


class ByLength(Ranker):
    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        return [float(len(text)) for _, text in pairs]


def test_langchain_compressor() -> None:
    documents = pytest.importorskip("langchain_core.documents")
    from jointrag.adapters_langchain import RerankerCompressor

    given = [documents.Document(page_content=text, metadata={"page": i}, id=str(i)) for i, text in enumerate(TEXTS)]
    compressor = RerankerCompressor(reranker=Reranker(ByLength()), top_k=3)
    assert isinstance(compressor, documents.BaseDocumentCompressor)
    found = compressor.compress_documents(given, "q")
    assert [(one.page_content, one.metadata, one.id) for one in found] == [
        ("dddd", {"page": 2, "relevance_score": 4.0}, "2"),
        ("ccc", {"page": 3, "relevance_score": 3.0}, "3"),
        ("bb", {"page": 0, "relevance_score": 2.0}, "0"),
    ]
    assert given[2].metadata == {"page": 2}, "the caller's document was changed"
    assert asyncio.run(compressor.acompress_documents(given, "q")) == found
    everything = RerankerCompressor(reranker=Reranker(ByLength())).compress_documents(given, "q")
    assert everything[-1].metadata["relevance_score"] == -math.inf
    assert list(compressor.compress_documents([], "q")) == []
    with pytest.raises(ValueError, match="top_n"):
        RerankerCompressor(reranker=Reranker(ByLength()), top_n=3)  # type: ignore[call-arg]


def test_langchain_documents_tell_the_passage_that_counted(tmp_path: Path) -> None:
    documents = pytest.importorskip("langchain_core.documents")
    from jointrag.adapters_langchain import RerankerCompressor

    reranker = Reranker(str(tiny_cross_encoder(tmp_path)), device="cpu", long_documents="windows")
    long = " ".join(WORDS * 4)
    (found,) = RerankerCompressor(reranker=reranker).compress_documents([documents.Document(long)], WORDS[0])
    assert found.page_content == long and found.metadata["relevant_passage"] in long
    assert found.metadata["relevant_passage"] == reranker.rank(WORDS[0], [long])[0].passage


def test_llama_index_postprocessor() -> None:
    schema = pytest.importorskip("llama_index.core.schema")
    from jointrag.adapters_llama_index import RerankerPostprocessor

    nodes = [
        schema.NodeWithScore(node=schema.TextNode(text=text, id_=str(i)), score=0.5) for i, text in enumerate(TEXTS)
    ]
    postprocessor = RerankerPostprocessor(reranker=Reranker(ByLength()), top_k=2)
    found = postprocessor.postprocess_nodes(nodes, query_str="q")
    assert [(one.node.node_id, one.score) for one in found] == [("2", 4.0), ("3", 3.0)]
    assert nodes[2].score == 0.5, "the caller's node was changed"
    assert asyncio.run(postprocessor.apostprocess_nodes(nodes, query_str="q")) == found
    assert postprocessor.postprocess_nodes([], query_str="q") == []
    with pytest.raises(ValueError, match="needs the query"):
        postprocessor.postprocess_nodes(nodes)
    titled = schema.TextNode(text="c", metadata={"title": "a long title"})
    (found,) = postprocessor.postprocess_nodes([schema.NodeWithScore(node=titled)], query_str="q")
    assert found.score is not None and found.score > 10


def test_two_threads_rank_at_once(tmp_path: Path) -> None:
    """As frameworks do whose asynchronous calls run in threads."""
    from concurrent.futures import ThreadPoolExecutor

    reranker = Reranker(str(tiny_cross_encoder(tmp_path)), device="cpu")
    texts = [" ".join(WORDS[i : i + 1 + i % 7]) for i in range(20)] * 10
    expected = reranker.score([(WORDS[0], text) for text in texts])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: reranker.score([(WORDS[0], text) for text in texts]), range(8)))
    for scores in found:
        assert scores == pytest.approx(expected, abs=1e-5)
