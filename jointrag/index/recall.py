"""recall@10 of an index: how much of what exact search finds does it find?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jointrag.corpus import Corpus
from jointrag.index.exact import ExactSearch
from jointrag.index.search import VectorSearch
from jointrag.index.shards import Vectors
from jointrag.jsonl import read_jsonl
from jointrag.types import Question

K = 10
_SAME = 1e-5  # products that are equal but for their rounding
_MOST_CHARACTERS = 200  # of a passage in the place of a question


def sample_queries(prepared: Path, corpus: Corpus, count: int) -> list[str]:
    """Questions of prepared/questions drawn at random, the same ones every time; where there are none, the titles or
    first sentences of passages."""
    rng = random.Random(0)
    drawn: list[str] = []
    for number, text in enumerate(_questions(prepared / "questions")):  # a reservoir: files may be large
        if number < count:
            drawn.append(text)
        elif (place := rng.randrange(number + 1)) < count:
            drawn[place] = text
    if drawn:
        return drawn
    chosen = rng.sample(range(len(corpus)), min(count, len(corpus)))
    return [_beginning(corpus, position) for position in sorted(chosen)]


def recall(search: VectorSearch, vectors: Vectors, queries: NDArray[np.float32], device: str) -> float:
    """The share of the 10 nearest of each query that `search` finds. Passages as near as the tenth count whichever of
    them is found: texts that occur twice are no fault of the index."""
    exact = ExactSearch(vectors, device).nearest(queries, K)[1]
    positions = search.nearest(queries, K)[0]
    found = vectors[np.maximum(positions, 0).ravel()].reshape(*positions.shape, vectors.dim)
    scores = np.where(positions >= 0, np.einsum("qd,qnd->qn", queries, found), -np.inf)
    return float(np.mean(scores >= exact[:, -1:] - _SAME)) * positions.shape[1] / exact.shape[1]


def _questions(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.jsonl")):
        for question in read_jsonl(path, Question):
            yield question.text


def _beginning(corpus: Corpus, position: int) -> str:
    passage = corpus[position]
    return passage.title or passage.text[:_MOST_CHARACTERS].partition(". ")[0]
