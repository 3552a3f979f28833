"""Embedding models, late-interaction models and rerankers as rankers, against their scores one pair at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluation.rankings
from evaluation.rankings import load_model, rank, search
from jointrag.encoders import Encoder
from tests.three_kinds import save_three_kinds
from tests.word_rankers import WORDS

KINDS = ("embedding", "late_interaction", "reranker")
QUERIES = tuple(" ".join(random.Random(i).sample(WORDS, 3)) for i in range(6))
CORPUS = tuple(" ".join(random.Random(100 + i).choices(WORDS, k=1 + i % 12)) for i in range(40))
# some documents are candidates of several queries, one query has one candidate, one has none
CANDIDATES = [random.Random(200 + i).sample(range(40), count) for i, count in enumerate((12, 1, 0, 20, 5, 40))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_three_kinds(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: load_model(folders[kind], kind, device="cpu") for kind in KINDS}  # type: ignore[arg-type]


def score(model: Any, query: str, document: str) -> float:
    if isinstance(model, Encoder):
        return float(model.encode([query], kind="query")[0] @ model.encode([document], kind="passage")[0])
    if hasattr(model, "predict"):
        return float(model.predict([(query, document)], activation_fn=torch.nn.Identity())[0])
    tokens_of_query, tokens_of_document = model.encode_query(query), model.encode_document(document)
    return float((tokens_of_query @ tokens_of_document.T).max(dim=1).values.sum())


def filled(folders: dict[str, Path], kind: str, value: float) -> Any:
    """The model with all weights the same."""
    model = load_model(folders[kind], kind, device="cpu")  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in (model.model if isinstance(model, Encoder) else model).parameters():
            parameter.fill_(value)
    return model


def by_score(model: Any, query: str, candidates: list[int]) -> list[int]:
    return sorted(candidates, key=lambda document: -score(model, query, CORPUS[document]))


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_in_the_order_of_the_models_scores(
    kind: str, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("_TEXTS_AT_ONCE", 7), ("_TOKEN_TEXTS_AT_ONCE", 7), ("_PAIRS_AT_ONCE", 9), ("_CELLS", 320)):
        monkeypatch.setattr(evaluation.rankings, name, size)
    rankings = rank(models[kind], QUERIES, CORPUS, CANDIDATES, batch_size=4)
    assert rankings == [by_score(models[kind], q, row) for q, row in zip(QUERIES, CANDIDATES, strict=True)]
    assert rankings[3] != CANDIDATES[3]


def test_search_finds_the_nearest_of_all(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation.rankings, "_TEXTS_AT_ONCE", 11)
    found = search(models["embedding"], QUERIES, CORPUS, k=10)
    assert found == [by_score(models["embedding"], query, list(range(40)))[:10] for query in QUERIES]
    assert [len(row) for row in search(models["embedding"], QUERIES, CORPUS, k=100)] == [40] * 6


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_keep_the_order_given(kind: str, folders: dict[str, Path]) -> None:
    assert rank(filled(folders, kind, 0.0), QUERIES, CORPUS, CANDIDATES) == CANDIDATES


def test_a_reranker_whose_probabilities_are_all_one_still_ranks(models: dict[str, Any]) -> None:
    model = models["reranker"]
    bias = model.model.classifier.bias
    before = rank(model, QUERIES, CORPUS, CANDIDATES)
    with torch.no_grad():
        bias += 30
    try:
        pairs = [(QUERIES[3], CORPUS[i]) for i in CANDIDATES[3]]
        assert set(model.predict(pairs).tolist()) == {1.0}
        after = rank(model, QUERIES, CORPUS, CANDIDATES)
    finally:
        with torch.no_grad():
            bias -= 30
    assert (np.concatenate(before) == np.concatenate(after)).mean() > 0.9  # float32 keeps less of a large logit


@pytest.mark.parametrize("kind", KINDS)
def test_scores_that_are_no_numbers_are_an_error(kind: str, folders: dict[str, Path]) -> None:
    model = filled(folders, kind, float("nan"))
    calls: list[Callable[[], Any]] = [lambda: rank(model, QUERIES, CORPUS, CANDIDATES)]
    if isinstance(model, Encoder):
        calls.append(lambda: search(model, QUERIES, CORPUS, 5))
    for call in calls:
        with pytest.raises(ValueError, match="not a number"):
            call()


def test_no_candidates_at_all(models: dict[str, Any]) -> None:
    assert rank(models["embedding"], ["bara", "deso"], CORPUS, [[], []]) == [[], []]
    with pytest.raises(ValueError, match="2 queries but candidates for 1"):
        rank(models["embedding"], ["bara", "deso"], CORPUS, [[1]])


def test_a_classifier_is_no_reranker(folders: dict[str, Path], tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(folders["reranker"].parent / "start"), num_labels=3).save_pretrained(str(tmp_path))
    model = load_model(tmp_path, "reranker", device="cpu")
    with pytest.raises(ValueError, match="gives 3 scores for a pair"):
        rank(model, QUERIES, CORPUS, CANDIDATES)


def test_weights_that_are_no_safetensors_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    for kind in KINDS:
        folder = tmp_path / kind
        shutil.copytree(folders[kind], folder)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_model(folder, kind, device="cpu")  # type: ignore[arg-type]
