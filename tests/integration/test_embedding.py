"""Embedding training with sentence-transformers, on a corpus of 128 passages."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from jointrag.config import PretrainedEncoder, RetrieverConfig, ScratchEncoder
from jointrag.encoders import Encoder
from jointrag.jsonl import read_jsonl
from jointrag.tracking import NoTracker
from jointrag.types import Passage, Question
from trainers.embedding import train
from trainers.retrieval.questions import Held, read_dev, read_pairs, retrieval_metrics

SMALL = ScratchEncoder(hidden_size=64, num_layers=1, num_heads=2, max_length=32)
TRAINED = RetrieverConfig(encoder=SMALL, num_epochs=6, batch_size=32, learning_rate=2e-3)


class Recording(NoTracker):
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))


def test_training_raises_recall(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tracker = Recording()
    metrics = train(TRAINED, prepared=world, seed=0, out=tmp_path, device="cpu", tracker=tracker)
    assert metrics["retriever/recall@1"] > metrics["retriever/start_recall@1"] + 0.1
    assert metrics["retriever/recall@1"] > 0.9
    assert metrics["retriever/recall@1"] <= metrics["retriever/recall@5"] <= metrics["retriever/recall@10"] <= 1
    losses = [row["retriever/step_loss"] for _, row in tracker.rows if "retriever/step_loss" in row]
    assert len(losses) > 5
    assert losses[-1] < losses[0] / 2
    assert any("loss" in record.message for record in caplog.records if record.name == "trainers.retrieval.watch")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]

    encoder = Encoder.load(tmp_path / "model", "cpu")  # what was saved is what was measured
    passages = {passage.id: passage for passage in read_jsonl(world / "corpus.jsonl", Passage)}
    dev = read_dev(world / "questions" / "dev.jsonl", passages, seed=1)
    assert retrieval_metrics(encoder, dev)["recall@1"] == pytest.approx(metrics["retriever/recall@1"])


def test_same_seed_same_model(world: Path, tmp_path: Path) -> None:
    config = TRAINED.model_copy(update={"num_epochs": 1.0, "max_pairs": 64})
    vectors = []
    for name in ("one", "two"):
        metrics = train(config, prepared=world, seed=3, out=tmp_path / name, device="cpu")
        assert metrics["retriever/pairs"] == 64
        vectors.append(Encoder.load(tmp_path / name / "model", "cpu").encode(["Ada Adler"], kind="query"))
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_pretrained_folder_as_it_is(world: Path, retriever_dir: Path, tmp_path: Path) -> None:
    encoder = PretrainedEncoder(type="pretrained", name=str(retriever_dir / "model"), max_length=16)
    metrics = train(RetrieverConfig(encoder=encoder, train=False), prepared=world, seed=0, out=tmp_path, device="cpu")
    assert "retriever/loss" not in metrics
    texts = ["Where does Ada Adler live?"]
    before = Encoder.load(retriever_dir / "model", "cpu").encode(texts, kind="query")
    after = Encoder.load(tmp_path / "model", "cpu")
    np.testing.assert_allclose(after.encode(texts, kind="query"), before, atol=1e-6)
    assert after.model.max_seq_length == 16


def test_unknown_encoder_is_named(world: Path, tmp_path: Path) -> None:
    encoder = PretrainedEncoder(type="pretrained", name=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"retriever\.encoder\.name='.*nowhere' cannot be loaded"):
        train(RetrieverConfig(encoder=encoder, train=False), prepared=world, seed=0, out=tmp_path, device="cpu")


def test_recall_by_hand() -> None:
    class Fixed(Encoder):
        def __init__(self) -> None:
            pass

        def encode(self, texts, kind, batch_size=256):  # type: ignore[no-untyped-def]
            return np.array([[float(text), 1.0] for text in texts], dtype=np.float32)

    held = Held(
        ("1", "1", "1"),
        tuple(str(i) for i in range(20)),  # the larger the number, the better
        (frozenset({19}), frozenset({19, 16}), frozenset({3})),
    )
    found = retrieval_metrics(Fixed(), held)
    assert found["recall@1"] == pytest.approx(0.5)
    assert found["recall@5"] == found["recall@10"] == pytest.approx(2 / 3)
    assert found["mrr@10"] == pytest.approx(2 / 3)
    assert retrieval_metrics(Fixed(), Held()) == {}


def test_one_pair_per_gold_passage(tmp_path: Path) -> None:
    path = tmp_path / "source.jsonl"
    path.write_text('{"id": "q", "text": "who", "answers": ["x"], "gold_passages": ["a", "b"]}\n')
    passages = {name: Passage(name, "T", name) for name in "ab"}
    assert read_pairs(path, passages) == [("who", "T\na"), ("who", "T\nb")]


@pytest.mark.parametrize("split", ["source", "dev"])
def test_unknown_gold_passage_is_named(world: Path, tmp_path: Path, split: str) -> None:
    prepared = Path(shutil.copytree(world, tmp_path / "world"))
    path = prepared / "questions" / f"{split}.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps({**row, "gold_passages": ["nowhere-7"]}) + "\n")
    message = rf"{split}\.jsonl: question 'q-home-0': no passage 'nowhere-7' in the corpus"
    with pytest.raises(ValueError, match=message):
        train(TRAINED, prepared=prepared, seed=0, out=tmp_path / "out", device="cpu")


def test_nothing_to_train_on_is_an_error(world: Path, tmp_path: Path) -> None:
    prepared = Path(shutil.copytree(world, tmp_path / "world"))
    (prepared / "questions" / "source.jsonl").write_text('{"id": "q", "text": "who", "answers": ["x"]}\n')
    with pytest.raises(ValueError, match=r"no question has gold_passages.*retriever\.train=false"):
        train(TRAINED, prepared=prepared, seed=0, out=tmp_path / "out", device="cpu")
