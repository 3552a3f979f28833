"""Which kind of ranker a model is. Its files are asked first, then a small table of names.

To add a kind: a class with `score_batch` (base.py), and its line in KINDS.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from jointrag.rankers.base import Ranker
from jointrag.rankers.loading import Loading

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
    ("bge-reranker-v2-minicpm-layerwise", "layerwise", {}),
    ("bge-reranker-v2.5-gemma2-lightweight", "layerwise", {}),
)
"""Part of a name, in lower case; kind; options. For models whose files do not say how they are to be asked."""


@dataclass(frozen=True, slots=True)
class Found:
    kind: str
    options: dict[str, Any]


def make(name: str, kind: str | None, loading: Loading, options: dict[str, Any]) -> Ranker:
    """The ranker. Raises ValueError for an unknown kind, or a model of which none can be told."""
    found = Found(kind, {}) if kind is not None else find(name, loading)
    if found.kind not in KINDS:
        raise ValueError(f"kind={found.kind!r} is none of {', '.join(KINDS)}")
    if kind in ("decoder", "layerwise"):  # the kind is given, but the name may still know the prompt
        found = Found(found.kind, _by_name(name).options if (by := _by_name(name)) and by.kind == kind else {})
    module, _, attribute = KINDS[found.kind].partition(":")
    make_ranker: Callable[..., Ranker] = getattr(import_module(module), attribute)
    try:
        return make_ranker(name, loading, **{**found.options, **options})
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ValueError(f"a {found.kind} ranker has no such option: {error}") from None


def find(name: str, loading: Loading) -> Found:
    """What the model's files say, or its name. Raises ValueError where neither does, with the kinds there are."""
    if name == "bm25":
        return Found("bm25", {})
    if name.startswith(("http://", "https://")):
        return Found("served", {})
    saved = _json(name, "config_sentence_transformers.json").get("model_type")
    head = (_json(name, "config.json", needed=True).get("architectures") or [""])[0]
    if saved == "CrossEncoder":
        return Found("decoder" if head.endswith("ForCausalLM") else "cross_encoder", {})
    if saved in ("MultiVectorEncoder", "ColBERT") or head == "HF_ColBERT":
        return Found("late_interaction", {})
    if saved == "SentenceTransformer":
        raise ValueError(_unclear(name, "an embedding model: it ranks by its vectors, in an index"))
    if head.endswith("ForSequenceClassification"):
        return Found("cross_encoder", {})
    if by_name := _by_name(name):
        return by_name
    if "LayerWise" in head:
        return Found("layerwise", {})
    if head.endswith("ForCausalLM"):
        raise ValueError(
            _unclear(
                name, "a language model that nothing says how to ask: kind=decoder with a prompt, chat or listwise"
            )
        )
    raise ValueError(_unclear(name, f"{head or 'of no known architecture'}: no reranker that is known here"))


def _by_name(name: str) -> Found | None:
    low = name.lower()
    return next((Found(kind, dict(options)) for part, kind, options in NAMES if part in low), None)


def _json(name: str, file: str, *, needed: bool = False) -> dict[str, Any]:
    """A JSON file of a folder or of a model on the Hub; {} where there is none."""
    path: str | Path | None = Path(name) / file
    if not Path(name).is_dir():
        from transformers.utils import cached_file

        try:
            path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise ValueError(
                f"{name!r} is no folder and cannot be downloaded ({error}); give a folder, a Hugging Face name, the "
                "address of a server, or bm25"
            ) from None
    if path is None or not Path(path).is_file():
        if needed:
            raise ValueError(f"{name}: no {file} in it; give the folder that holds the model")
        return {}
    return json.loads(Path(path).read_text("utf-8"))


def _unclear(name: str, what: str) -> str:
    return f"{name}: {what}. Say kind= one of {', '.join(KINDS)}"
