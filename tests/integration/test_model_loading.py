"""What holds for every kind of retrieval model that is loaded to be trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from jointrag.config import LateInteractionConfig, PretrainedEncoder, RerankerConfig, RetrieverConfig
from tests.three_kinds import save_three_kinds
from trainers import embedding, late_interaction, reranker

MAKE: dict[str, Callable[..., Any]] = {
    "embedding": lambda name, **given: embedding.make_model(
        RetrieverConfig(encoder=PretrainedEncoder(name=name), **given), (), "cpu"
    ),
    "late_interaction": lambda name, **given: late_interaction.make_model(
        LateInteractionConfig(model=name, **given), "cpu"
    ),
    "reranker": lambda name, **given: reranker.make_model(RerankerConfig(model=name, **given), "cpu"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_three_kinds(tmp_path_factory.mktemp("three"))


@pytest.mark.parametrize("kind", MAKE)
def test_attention_is_the_one_that_is_asked_for(saved: dict[str, Path], kind: str) -> None:
    for attention in ("eager", "sdpa"):
        model = MAKE[kind](str(saved[kind]), attention=attention)
        assert model[0].model.config._attn_implementation == attention


@pytest.mark.parametrize("kind", MAKE)
def test_pickled_weights_are_refused(saved: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = saved[kind]
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    hidden = weights.rename(folder / "hidden")
    try:
        with pytest.raises(ValueError, match=r"cannot be loaded .*safetensors"):
            MAKE[kind](str(folder))
    finally:
        hidden.rename(weights)
        (folder / "pytorch_model.bin").unlink()


def test_the_length_that_is_asked_for_or_the_models_own(saved: dict[str, Path], tmp_path: Path) -> None:
    """Also where the model was saved with a shorter one than it has positions for."""
    model = SentenceTransformer(str(saved["embedding"]), device="cpu")
    model.max_seq_length = 20
    model.save_pretrained(str(tmp_path))

    def length(asked: int | None) -> int | None:
        encoder = PretrainedEncoder(name=str(tmp_path), max_length=asked)
        return embedding.make_model(RetrieverConfig(encoder=encoder), (), "cpu").max_seq_length

    assert (length(None), length(10), length(40)) == (20, 10, 40)
    with pytest.raises(ValueError, match=r"retriever\.encoder\.max_length=100, but .* takes 64 tokens"):
        length(100)
