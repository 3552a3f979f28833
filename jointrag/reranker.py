"""One way to call any reranking model.

    from jointrag import Reranker

    reranker = Reranker("BAAI/bge-reranker-v2-m3")
    reranker.score([("who wrote Faust?", "Goethe wrote Faust.")])         # [7.9]: one number per pair, always a list
    ranking = reranker.rank("who wrote Faust?", documents, top_k=3)       # documents: texts or {"text", "id", …}
    ranking[0].text, ranking[0].score, ranking[0].index

    Reranker(..., long_documents="windows")    # read all of a long document, in overlapping windows; the best counts

Code written for RAG-Retrieval's reranker runs unchanged (jointrag/rankers/rag_retrieval.py): `compute_score`, `rerank`
and its results work here, too. What differs is what was broken there: a list always comes back as a list, an empty
document keeps its place (and is last), an unknown model is an error, and whatever is cut is said.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.kinds import make
from jointrag.rankers.loading import Loading
from jointrag.rankers.processes import Processes
from jointrag.rankers.rag_retrieval import RagRetrievalNames, kind_of
from jointrag.rankers.results import AnyDocument, Document, Ranked, Ranking, Score, as_document
from jointrag.rankers.writing import Limits

logger = logging.getLogger(__name__)
LongDocuments = Literal["truncate", "windows"]
Aggregate = Literal["max", "first", "mean", "top2"]
_LONG_WORK = 2_000  # pairs from which progress is shown


class Reranker(RagRetrievalNames):
    """See the module."""

    def __init__(
        self,
        model: str | Path | Ranker,
        kind: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        *,
        devices: Sequence[str] | None = None,
        long_documents: LongDocuments = "truncate",
        overlap: int | None = None,
        aggregate: Aggregate = "max",
        max_length: int | None = None,
        tokens_per_forward: int | None = None,
        trust_remote_code: bool = False,
        model_type: str | None = None,
        verbose: int = 1,
        **options: Any,
    ) -> None:
        """`model`: a folder, a Hugging Face name, a server's address, "bm25", or a Ranker of your own. `kind`: where
        the model's files do not say it (jointrag.rankers.kinds). `dtype`: fp16, bf16 or float32; by itself half
        precision on a GPU. `devices`: several, in place of device, that share the pairs (a process each).
        `long_documents`: what does not fit `max_length` tokens is cut off, with a warning, or read in windows that
        share `overlap` tokens (80; a quarter of a window where that is less), whose scores become one by `aggregate`:
        the best, the first, their mean or the sum of the best two. `tokens_per_forward`: how many tokens go through
        the model together. `model_type`: RAG-Retrieval's cross-encoder, llm or colbert, in place of kind.
        `verbose=0`: no progress unless a call asks for it. `options`: of the kind (cutoff_layers, prompt, instruction,
        api_key_variable …).

        Raises ValueError for a model that cannot be loaded or of which nobody can tell the kind.
        """
        model = str(model) if isinstance(model, Path) else model
        loading = Loading(device, dtype, max_length, tokens_per_forward, trust_remote_code)
        if model_type is not None and not isinstance(model, Ranker):
            if kind is not None:
                raise ValueError(f"kind={kind!r} and model_type={model_type!r} say the same; give one of them")
            kind, known = kind_of(model_type, model)
            options = {**known, **options}
        if isinstance(model, Ranker):
            self.ranker = model
        elif devices is None:
            self.ranker = make(model, kind, loading, options)
        elif device is None:
            self.ranker = Processes(model, kind, loading, options, devices)
        else:
            raise ValueError(f"device={device!r} and devices={devices!r}: give one of them")
        self._show_long_work = verbose > 0
        if long_documents not in ("truncate", "windows"):
            raise ValueError(f"long_documents={long_documents!r}: truncate or windows")
        if aggregate not in _AGGREGATES:
            raise ValueError(f"aggregate={aggregate!r} is none of {', '.join(_AGGREGATES)}")
        if long_documents == "windows" and not self.ranker.reads_windows:
            raise ValueError(
                f"{type(self.ranker).__name__} reads documents whole; long_documents=windows is not for it"
            )
        self.aggregate = aggregate
        self.limits = Limits(max_length or self.ranker.max_length, long_documents == "windows", overlap)

    def score(
        self, pairs: Sequence[Pair], *, normalize: bool = False, show_progress: bool | None = None
    ) -> list[float]:
        """One number per (query, text), in order; the model's own (a logit, mostly), or between 0 and 1."""
        return [score.value for score in self._scores(list(pairs), normalize, show_progress)]

    def rank(
        self,
        query: str,
        documents: Sequence[AnyDocument],
        top_k: int | None = None,
        *,
        normalize: bool = False,
        show_progress: bool | None = None,
    ) -> Ranking:
        """The documents, best first; equal ones in the order they came. A document is a text, or a mapping with text
        and, as far as known, id and metadata. None and blank ones come last."""
        return self.rank_batch([query], [documents], top_k, normalize=normalize, show_progress=show_progress)[0]

    def rank_batch(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[AnyDocument]],
        top_k: int | None = None,
        *,
        normalize: bool = False,
        show_progress: bool | None = None,
    ) -> list[Ranking]:
        """A ranking for each query of its own documents. Faster than one call each."""
        if len(queries) != len(documents):
            raise ValueError(f"{len(queries)} queries, but documents for {len(documents)}")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k={top_k}: ask for at least one document")
        for group in documents:
            if isinstance(group, str):
                raise ValueError(f"documents={group!r:.60}: a list of documents is expected, and this is one text")
        read = [[as_document(one, place) for place, one in enumerate(group)] for group in documents]
        asked = [
            [(query, one.text or "") for one in group if not one.is_empty]
            for query, group in zip(queries, read, strict=True)
        ]
        together = [[pair for pairs in asked for pair in pairs]]
        if self.ranker.by_query and any(one == following for one, following in pairwise(queries)):
            together = asked  # a query asked twice in a row has two lists, not one long one
        scores = iter([score for pairs in together for score in self._scores(pairs, normalize, show_progress)])
        lowest = Score(0.0 if normalize else float("-inf"))
        return [
            _ranking(query, group, [lowest if one.is_empty else next(scores) for one in group], top_k)
            for query, group in zip(queries, read, strict=True)
        ]

    def _scores(self, pairs: list[Pair], normalize: bool, show_progress: bool | None) -> list[Score]:
        for place, pair in enumerate(pairs):
            if len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise ValueError(f"pair {place}: {pair!r:.60} is not (query, text)")
        long_work = self._show_long_work and len(pairs) >= _LONG_WORK
        show = long_work if show_progress is None else show_progress
        found = self.ranker.score(pairs, self.limits, show_progress=show)
        scores = [_AGGREGATES[self.aggregate](parts) for parts in found]
        if cut := [score.unread_tokens for score in scores if score.unread_tokens]:
            remedy = '; long_documents="windows" reads all of them' if self.ranker.reads_windows else ""
            logger.warning(
                "%d of %d documents are longer than max_length=%d and were cut, by up to %d tokens%s",
                len(cut), len(pairs), self.limits.max_length, max(cut), remedy,
            )  # fmt: skip
        for place, score in enumerate(scores):
            if score.value != score.value:
                raise ValueError(
                    f"pair {place}: the model's score is not a number; fp16 may be too narrow for it, try dtype=float32"
                )
        if normalize:
            scores = [Score(self.ranker.normalize(one.value), one.window, one.unread_tokens) for one in scores]
        return scores


def _ranking(query: str, documents: Sequence[Document], scores: Sequence[Score], top_k: int | None) -> Ranking:
    order = sorted(range(len(documents)), key=lambda i: -scores[i].value)[:top_k]
    return Ranking(
        query,
        tuple(
            Ranked(i, documents[i], scores[i].value, rank, scores[i].window, scores[i].unread_tokens)
            for rank, i in enumerate(order, 1)
        ),
    )


# ---- one score of several windows ------------------------------------------------------------------------------------


def _best(parts: Sequence[Score]) -> Score:
    return max(parts, key=lambda one: one.value)


def _mean(parts: Sequence[Score]) -> Score:
    return _worth(parts, sum(one.value for one in parts) / len(parts))


def _top2(parts: Sequence[Score]) -> Score:
    return _worth(parts, sum(sorted((one.value for one in parts), reverse=True)[:2]))


def _worth(parts: Sequence[Score], value: float) -> Score:
    best = _best(parts)
    return Score(value, best.window, best.unread_tokens)


_AGGREGATES = {"max": _best, "first": lambda parts: parts[0], "mean": _mean, "top2": _top2}
