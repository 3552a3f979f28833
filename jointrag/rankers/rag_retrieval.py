"""RAG-Retrieval's names for what Reranker does, so that code written for it needs another import and nothing more.

    from jointrag import Reranker                                       # was: from rag_retrieval import Reranker

    reranker = Reranker("BAAI/bge-reranker-base", model_type="cross-encoder", dtype="fp16", verbose=0)
    reranker.compute_score([["what is panda?", "The giant panda is a bear."]])
    ranking = reranker.rerank("what is panda?", documents, long_doc_process_strategy="max_score_slice")
    ranking.top_k(3)[0].doc_id, ranking.get_score_by_docid(0)

As there: documents are read in windows unless truncation is asked for, the best window counts, and windows share 80
tokens, or a quarter of what fits beside the query where that is less. Otherwise than there: scores are always a list;
a document without text stays in the ranking, last, so that doc_id is a place in the caller's list; nothing is cut
without a word; an unknown model_type is an error. `batch_size` is taken and not needed: batches are made by tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.results import AnyDocument, Ranking
from jointrag.rankers.writing import Limits

RankedResults: TypeAlias = Ranking
Strategy = Literal["max_score_slice", "max_length_truncation"]
MODEL_TYPES = ("cross-encoder", "llm", "colbert")


class RagRetrievalNames:
    """What Reranker has besides its own methods."""

    ranker: Ranker
    limits: Limits
    aggregate: Any

    def compute_score(
        self,
        sentence_pairs: Sequence[Pair] | Sequence[Sequence[str]] | Pair,
        batch_size: int | None = None,
        max_length: int | None = None,
        normalize: bool = False,
        prompt: str | None = None,
        cutoff_layers: Sequence[int] | None = None,
        enable_tqdm: bool | None = None,
    ) -> list[float]:
        """`Reranker.score`; a single pair is as good as a list of one. `prompt`: the instruction of a decoder.
        `cutoff_layers`: of a layer-wise model."""
        return self._with(max_length, None, prompt, cutoff_layers).score(
            _pairs(sentence_pairs), normalize=normalize, show_progress=enable_tqdm
        )

    def rerank(
        self,
        query: str,
        docs: Sequence[AnyDocument] | str,
        batch_size: int | None = None,
        max_length: int | None = None,
        normalize: bool = False,
        prompt: str | None = None,
        cutoff_layers: Sequence[int] | None = None,
        long_doc_process_strategy: Strategy | None = None,
    ) -> RankedResults:
        """`Reranker.rank`. `long_doc_process_strategy`: windows by default, for rankers that read windows."""
        windows = _windows(long_doc_process_strategy, self.ranker)
        documents = [docs] if isinstance(docs, str) else docs
        return self._with(max_length, windows, prompt, cutoff_layers).rank(query, documents, normalize=normalize)

    def _with(
        self, max_length: int | None, windows: bool | None, prompt: str | None, cutoff_layers: Sequence[int] | None
    ) -> Any:
        """This reranker as one call wants it; the model is shared."""
        changed: Any = copy(self)
        settings = {"instruction": prompt, "cutoff_layers": cutoff_layers}
        if given := {name: value for name, value in settings.items() if value is not None}:
            changed.ranker = self.ranker.with_settings(**given)
        if windows is not None:
            changed.limits, changed.aggregate = replace(self.limits, windows=windows), "max"
        if max_length is not None:
            changed.limits = replace(changed.limits, max_length=max_length)
        return changed


def kind_of(model_type: str, name: str) -> tuple[str, dict[str, Any]]:
    """Kind and options for a `model_type`. A model of type llm is asked as bge-reranker-v2-gemma is, unless its name
    is known to stand for something else. Raises ValueError for an unknown one."""
    from jointrag.rankers.kinds import by_name

    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type={model_type!r} is none of {', '.join(MODEL_TYPES)}")
    if model_type != "llm":
        return {"cross-encoder": "cross_encoder", "colbert": "late_interaction"}[model_type], {}
    known = by_name(name)
    return (known.kind, known.options) if known else ("decoder", {"prompt": "bge"})


def _pairs(given: Any) -> list[Pair]:
    if len(given) == 2 and all(isinstance(text, str) for text in given):
        return [(given[0], given[1])]
    return list(given)


def _windows(strategy: str | None, ranker: Ranker) -> bool:
    if strategy is None:
        return ranker.reads_windows
    if strategy not in ("max_score_slice", "max_length_truncation"):
        raise ValueError(f"long_doc_process_strategy={strategy!r}: max_score_slice or max_length_truncation")
    if strategy == "max_score_slice" and not ranker.reads_windows:
        raise ValueError(f"{type(ranker).__name__} reads documents whole: max_score_slice is not for it")
    return strategy == "max_score_slice"
