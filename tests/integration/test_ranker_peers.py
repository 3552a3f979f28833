"""Scores equal those of other packages, where these still load such a model: pip install --no-deps what the extra peers
names, then pytest -m peers. They cut long texts each in a way of its own, so these are left out."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from jointrag import Reranker
from tests import ranker_models as tiny

pytestmark = pytest.mark.peers
MAX_LENGTH = 250
SHORT = [pair for pair in tiny.PAIRS if tiny.LONG not in pair]
ENCODERS = ("xlm-roberta", "bert", "modernbert", "deberta")


def package(name: str) -> Any:
    pytest.importorskip(name)
    return import_module(name)


def ours(folder: Path, pairs: list[tuple[str, str]], **options: Any) -> list[float]:
    return Reranker(folder, device="cpu", dtype="float32", max_length=MAX_LENGTH, verbose=0, **options).score(pairs)


@pytest.mark.parametrize("kind", ENCODERS)
def test_rag_retrieval(tmp_path: Path, kind: str) -> None:
    folder = tiny.classifier(kind, tmp_path)
    theirs = package("rag_retrieval").Reranker(str(folder), dtype="fp32", device="cpu", verbose=0)
    assert ours(folder, SHORT) == pytest.approx(theirs.compute_score(SHORT, max_length=MAX_LENGTH), abs=1e-4)


@pytest.mark.parametrize("kind", ENCODERS)
def test_rerankers(tmp_path: Path, kind: str) -> None:
    folder = tiny.classifier(kind, tmp_path)
    given = {"model_type": "cross-encoder", "device": "cpu", "dtype": "float32", "verbose": 0}
    found = package("rerankers").Reranker(str(folder), **given).rank(SHORT[0][0], [text for _, text in SHORT])
    theirs = {result.document.doc_id: result.score for result in found.results}
    mine = ours(folder, [(SHORT[0][0], text) for _, text in SHORT])
    assert mine == pytest.approx([theirs[i] for i in range(len(SHORT))], abs=1e-4)


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert", "deberta"])  # ModernBERT's tiny tokenizer cannot write
def test_flag_embeddings_encoders(tmp_path: Path, kind: str) -> None:
    """It writes tokens back as text and reads that again, so only texts that survive this can be compared, and no
    empty ones."""
    from transformers import AutoTokenizer

    folder = tiny.classifier(kind, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def survives(text: str) -> bool:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        return (
            tokenizer(tokenizer.decode(ids, clean_up_tokenization_spaces=False), add_special_tokens=False).input_ids
            == ids
        )

    pairs = [pair for pair in SHORT if all(text and survives(text) for text in pair)]
    assert len(pairs) >= 3
    theirs = package("FlagEmbedding").FlagReranker(str(folder), use_fp16=False, devices="cpu", max_length=MAX_LENGTH)
    assert ours(folder, pairs) == pytest.approx(theirs.compute_score(pairs), abs=1e-4)


def test_flag_embeddings_decoder(tmp_path: Path) -> None:
    folder = tiny.decoder("gemma", tmp_path)
    theirs = package("FlagEmbedding").FlagLLMReranker(
        str(folder), use_fp16=False, devices="cpu", max_length=MAX_LENGTH, query_max_length=150
    )
    mine = ours(folder, SHORT, kind="decoder", prompt="bge")
    assert mine == pytest.approx(theirs.compute_score(SHORT), abs=1e-4)
