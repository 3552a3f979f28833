"""Which kind of ranker a model is. Its files are asked first, then a small table of names.

To add a kind: a class with `score_batch` (base.py), and its line in KINDS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any

from jointrag.rankers.base import Ranker
from jointrag.rankers.loading import Loading, is_saved_reranker, model_json

KINDS = {
    "cross_encoder": "jointrag.rankers.cross_encoder:CrossEncoder",
    "decoder": "jointrag.rankers.decoder:Decoder",
    "layerwise": "jointrag.rankers.layerwise:Layerwise",
    "late_interaction": "jointrag.rankers.late_interaction:LateInteraction",
    "chat": "jointrag.rankers.decoder:Chat",
    "listwise": "jointrag.rankers.listwise:Listwise",
    "served": "jointrag.rankers.served:Served",
    "bm25": "jointrag.rankers.bm25:BM25Ranker",
}
"""Kind to class. Each is made as Class(name, loading, **options)."""

NAMES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bge-reranker-v2-gemma", "decoder", {"prompt": "bge"}),
    ("qwen3-reranker", "decoder", {"prompt": "qwen3"}),
    ("mxbai-rerank-base-v2", "decoder", {"prompt": "mxbai"}),
    ("mxbai-rerank-large-v2", "decoder", {"prompt": "mxbai"}),
    ("bge-reranker-v2-minicpm-layerwise", "layerwise", {}),
    ("bce-reranker-base", "cross_encoder", {"sigmoid": True}),
)
"""Part of a name, in lower case; kind; options. For what a model's files do not say."""


@dataclass(frozen=True, slots=True)
class Found:
    kind: str
    options: dict[str, Any]


def make(name: str, kind: str | None, loading: Loading, options: dict[str, Any]) -> Ranker:
    """The ranker. Raises ValueError for an unknown kind, or a model of which none can be told."""
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind={kind!r} is none of {', '.join(KINDS)}")
    found = find(name) if kind is None else Found(kind, _options(name, kind))
    module, _, attribute = KINDS[found.kind].partition(":")
    make_ranker: Callable[..., Ranker] = getattr(import_module(module), attribute)
    known = signature(make_ranker).parameters
    for option in options:
        if option not in known or option in ("name", "loading"):
            choices = ", ".join(one for one in known if one not in ("name", "loading")) or "none"
            raise ValueError(f"a {found.kind} ranker has no option {option}; it has {choices}")
    return make_ranker(name, loading, **{**found.options, **options})


def find(name: str) -> Found:
    """What the model's files say, or its name. Raises ValueError where neither does, with the kinds there are."""
    if name == "bm25":
        return Found("bm25", {})
    if name.startswith(("http://", "https://")):
        return Found("served", {})
    saved = model_json(name, "config_sentence_transformers.json").get("model_type")
    head = (model_json(name, "config.json", needed=True).get("architectures") or [""])[0]
    if saved == "CrossEncoder":
        return Found("decoder" if head.endswith("ForCausalLM") else "cross_encoder", {})
    if saved in ("MultiVectorEncoder", "ColBERT") or head == "HF_ColBERT":
        return Found("late_interaction", {})
    if saved in ("SentenceTransformer", "SparseEncoder"):
        raise ValueError(_unclear(name, "an embedding model: it ranks by its vectors, in an index"))
    if head.endswith("ForSequenceClassification"):
        return Found("cross_encoder", _options(name, "cross_encoder"))
    if known := by_name(name):
        return known
    if "LayerWise" in head:
        return Found("layerwise", {})
    if head.endswith("ForCausalLM"):
        how = "a language model that nothing says how to ask: kind=decoder with a prompt, chat or listwise"
        raise ValueError(_unclear(name, how))
    raise ValueError(_unclear(name, f"{head or 'of no known architecture'}: no reranker that is known here"))


def by_name(name: str) -> Found | None:
    """What the table says of a name; None where nothing."""
    low = name.lower()
    return next((Found(kind, dict(options)) for part, kind, options in NAMES if part in low), None)


def _options(name: str, kind: str) -> dict[str, Any]:
    """What the name says of a model whose kind is known; a classifier made of a decoder is asked as that was."""
    known = by_name(name)
    if known is None or is_saved_reranker(name):  # what is saved in the folder comes first
        return {}
    asked_alike = kind in ("cross_encoder", "layerwise") and "prompt" in known.options
    return known.options if known.kind == kind or asked_alike else {}


def _unclear(name: str, what: str) -> str:
    return f"{name}: {what}. Say kind= one of {', '.join(KINDS)}"
