"""The index over a corpus: built once, then bound to corpus and encoder by fingerprint.

    build(IndexConfig(factory="IVF4096,PQ64"), prepared=…, retriever=…, out=Path("models/index"))
    index = load(Path("models/index"))
    index.search(vectors, k=10)   # list[list[Hit]]

shards.py      the corpus as fp16 vectors on disk, made piece by piece
encoding.py    the pieces that are missing, in one process or several
faiss_search.py, exact.py (torch), jointrag/bm25.py   ways to search; search.py joins them and opens what was built
building.py    corpus, vectors, index and recall, one after the other
"""

from jointrag.index.building import build, plan
from jointrag.index.info import IndexInfo
from jointrag.index.search import SearchIndex, load
from jointrag.index.shards import Shards, Vectors

__all__ = ["IndexInfo", "SearchIndex", "Shards", "Vectors", "build", "load", "plan"]
