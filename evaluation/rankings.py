"""How each kind of model ranks: an embedding model a whole corpus, all three kinds given candidates.

    model = load_model("models/reranker/model", "reranker")
    rankings = rank(model, queries, corpus, candidates)      # any kind, over candidates[query] = positions in corpus
    rankings = search(encoder, queries, corpus, k=10)        # an embedding model, exactly, over everything
    measure(rankings, gold, ["recall@10"])                   # evaluation.retrieval; gold names positions, too

A ranking is a list of positions in the corpus, best first. Equal scores keep the order of the corpus, or of the
candidates: a model that gives every text the same score returns them as they came, so gold texts must not come first
(evaluation.judged shuffles). A score that is not a number is an error, not a last place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from jointrag.encoders import Encoder, no_bars_in_logs
from jointrag.index.exact import nearest
from jointrag.progress import progress

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

ModelKind = Literal["embedding", "late_interaction", "reranker"]
Positions = list[list[int]]

CLASSES = {"embedding": "SentenceTransformer", "late_interaction": "MultiVectorEncoder", "reranker": "CrossEncoder"}
_TEXTS_AT_ONCE = 20_000  # vectors in memory: 80 MB at 1,024 dimensions
_TOKEN_TEXTS_AT_ONCE = 1_024  # with a vector per token: 160 MB at 300 tokens of 128 dimensions
_PAIRS_AT_ONCE = 50_000  # texts of which a cross-encoder sorts by length at a time
_CELLS = 4_000_000  # numbers held at once, 4 bytes each


def load_model(
    path_or_name: Path | str, kind: ModelKind, device: str = "auto"
) -> Encoder | MultiVectorEncoder | CrossEncoder:
    """Load a folder or a Hugging Face name; weights as safetensors only, no code from the model's folder.

    Raises ValueError for a folder that holds no model, or one of another kind.
    """
    import sentence_transformers

    path = Path(path_or_name)
    if path.is_dir() or isinstance(path_or_name, Path):
        found = _kind_of(path)
        if found not in (kind, None):
            raise ValueError(f"{path}: holds a model of kind {found}, not {kind}; ask for kind {found}")
    no_bars_in_logs()
    target = None if device == "auto" else device
    try:
        model = getattr(sentence_transformers, CLASSES[kind])(
            str(path_or_name), device=target, model_kwargs={"use_safetensors": True}
        )
    except OSError as error:
        raise ValueError(f"{path_or_name}: cannot be loaded ({error})") from None
    return Encoder(model) if kind == "embedding" else model


def _kind_of(path: Path) -> str | None:
    """What a folder was saved as; None: a language model, which may become any kind.

    sentence-transformers loads every kind as every other and gives random weights to what is missing.
    """
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise ValueError(f"{path}: not a model folder; give the one that holds config.json or modules.json")
    saved, config = (
        json.loads(file.read_text("utf-8")) if file.is_file() else {}
        for file in (path / "config_sentence_transformers.json", path / "config.json")
    )
    kinds = {name: kind for kind, name in CLASSES.items()}
    if "model_type" in saved:
        return kinds.get(saved["model_type"], "late_interaction" if saved["model_type"] == "ColBERT" else "other")
    head = (config.get("architectures") or [""])[0]
    if (
        head == "HF_ColBERT" or head.endswith("ForRetrieval") or "query_prefix" in saved
    ):  # Stanford, transformers, PyLate
        return "late_interaction"
    if (path / "modules.json").is_file():
        return "embedding"
    if head.endswith("ForCausalLM"):
        return None
    return "reranker" if head.endswith("ForSequenceClassification") else "embedding"


# ---- a whole corpus --------------------------------------------------------------------------------------------------


def search(encoder: Encoder, queries: Sequence[str], corpus: Sequence[str], k: int) -> Positions:
    """The `k` texts of `corpus` nearest to each query, best first; all if it has fewer.

    Exact, by inner product of unit vectors. These are made and compared in blocks, so that memory does not grow with
    the corpus.
    """
    blocks = (
        encoder.encode(corpus[start : start + _TEXTS_AT_ONCE], kind="passage")
        for start in progress(range(0, len(corpus), _TEXTS_AT_ONCE), "embedding the corpus, block")
    )
    return nearest(encoder.encode(queries, kind="query"), blocks, k, encoder.model.device)[0].tolist()


# ---- given candidates ------------------------------------------------------------------------------------------------


def rank(
    model: Encoder | MultiVectorEncoder | CrossEncoder,
    queries: Sequence[str],
    corpus: Sequence[str],
    candidates: Sequence[Sequence[int]],
    batch_size: int = 32,
) -> Positions:
    """Each query's `candidates` (positions in `corpus`) in the model's order, best first.

    A document is encoded once, whoever has it as a candidate. Scores are inner products of unit vectors, MaxSim (or
    what the model's similarity_fn_name says), or a cross-encoder's logits: as probabilities, the best would be equal.
    """
    if len(queries) != len(candidates):
        raise ValueError(f"{len(queries):,} queries but candidates for {len(candidates):,}")
    counts = np.array([len(row) for row in candidates], dtype=np.int64)
    pairs = _Pairs(
        queries,
        corpus,
        np.repeat(np.arange(len(queries)), counts),
        np.array([position for row in candidates for position in row], dtype=np.int64),
    )
    if not len(pairs.document):
        return [[] for _ in queries]
    if isinstance(model, Encoder):
        scores = _similarities(model, pairs, batch_size)
    elif hasattr(model, "predict"):
        scores = _logits(model, pairs, batch_size)  # type: ignore[arg-type]
    else:
        scores = _max_sims(model, pairs, batch_size)  # type: ignore[arg-type]
    if np.isnan(scores).any():
        query = queries[pairs.query[np.isnan(scores).argmax()]]
        raise ValueError(f"query {query!r:.80}: the model's score for a candidate is not a number (fp16 overflow?)")
    order = np.lexsort((np.arange(len(scores)), -scores, pairs.query))
    return [part.tolist() for part in np.split(pairs.document[order], np.cumsum(counts)[:-1])]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Which texts to score together: positions among the queries and in the corpus, [pairs] each."""

    queries: Sequence[str]
    corpus: Sequence[str]
    query: NDArray[np.int64]
    document: NDArray[np.int64]

    def by_document(self, at_once: int) -> Iterator[tuple[list[str], NDArray[np.int64], NDArray[np.int64]]]:
        """Blocks of distinct documents, long ones first: their texts, their pairs, and which text each pair has."""
        distinct, which = np.unique(self.document, return_inverse=True)
        documents: list[int] = distinct.tolist()
        longest_first = np.argsort([-len(self.corpus[document]) for document in documents], kind="stable")
        place = np.empty_like(longest_first)
        place[longest_first] = np.arange(len(documents))
        place_of = place[which]  # [pairs]
        order = np.argsort(place_of, kind="stable")
        for start in progress(range(0, len(documents), at_once), "scoring candidates, block"):
            first, last = np.searchsorted(place_of[order], [start, start + at_once])
            pairs = order[first:last]
            block: list[int] = longest_first[start : start + at_once].tolist()
            yield [self.corpus[documents[i]] for i in block], pairs, place_of[pairs] - start


def _similarities(model: Encoder, pairs: _Pairs, batch_size: int) -> NDArray[np.float64]:
    queries = model.encode(pairs.queries, kind="query", batch_size=batch_size)
    scores = np.empty(len(pairs.document))
    at_once = max(1, _CELLS // queries.shape[1])
    for texts, chosen, text_of in pairs.by_document(_TEXTS_AT_ONCE):
        documents = model.encode(texts, kind="passage", batch_size=batch_size)
        for start in range(0, len(chosen), at_once):
            part = chosen[start : start + at_once]
            found = np.einsum("pd,pd->p", queries[pairs.query[part]], documents[text_of[start : start + at_once]])
            scores[part] = found
    return scores


def _max_sims(model: MultiVectorEncoder, pairs: _Pairs, batch_size: int) -> NDArray[np.float64]:
    queries = model.encode_query(list(pairs.queries), batch_size=batch_size, show_progress_bar=False)
    scores = np.empty(len(pairs.document))
    for texts, chosen, text_of in pairs.by_document(_TOKEN_TEXTS_AT_ONCE):
        documents = model.encode_document(texts, batch_size=batch_size, show_progress_bar=False)
        found = model.similarity_pairwise([queries[i] for i in pairs.query[chosen]], [documents[i] for i in text_of])
        scores[chosen] = found.cpu().numpy()
    return scores


def _logits(model: CrossEncoder, pairs: _Pairs, batch_size: int) -> NDArray[np.float64]:
    from torch.nn import Identity

    if model.num_labels != 1:
        raise ValueError(f"the model gives {model.num_labels} scores for a pair; a reranker gives one (num_labels=1)")
    scores = np.empty(len(pairs.document))
    for start in progress(range(0, len(scores), _PAIRS_AT_ONCE), "scoring pairs, block"):
        part = slice(start, start + _PAIRS_AT_ONCE)
        texts = [
            (pairs.queries[i], pairs.corpus[j]) for i, j in zip(pairs.query[part], pairs.document[part], strict=True)
        ]
        scores[part] = model.predict(texts, batch_size=batch_size, show_progress_bar=False, activation_fn=Identity())
    return scores
