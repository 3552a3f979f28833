"""A tiny random model of each kind over the same vocabulary, saved as sentence-transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.word_rankers import tiny_bert


def save_three_kinds(folder: Path) -> dict[str, Path]:
    """folder/embedding, folder/late_interaction, folder/reranker."""
    from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer

    start = str(tiny_bert(folder / "start"))
    models: dict[str, Any] = {
        "embedding": SentenceTransformer(start, device="cpu"),
        "late_interaction": MultiVectorEncoder(start, device="cpu"),
        "reranker": CrossEncoder(start, num_labels=1, device="cpu"),
    }
    for kind, model in models.items():
        model.save_pretrained(str(folder / kind))
    return {kind: folder / kind for kind in models}
