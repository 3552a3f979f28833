"""Embedding training with sentence-transformers, on a corpus of 128 passages."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jointrag.config import PretrainedEncoder, RetrieverConfig, ScratchEncoder, TeacherConfig
from jointrag.encoders import Encoder
from jointrag.jsonl import read_jsonl
from jointrag.tracking import NoTracker
from jointrag.types import Passage, Question
from trainers.embedding import train
from trainers.retrieval.questions import Corpus, Held, read_dev, read_pairs, retrieval_metrics

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
    dev = read_dev(world / "questions" / "dev.jsonl", Corpus(world / "corpus.jsonl"), seed=1)
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
            self.model = SimpleNamespace(device="cpu")  # type: ignore[assignment]

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


# ---- interrupted -----------------------------------------------------------------------------------------------------


def test_interrupted_training_goes_on(world: Path, tmp_path: Path) -> None:
    config = TRAINED.model_copy(update={"checkpoint_every": 3})

    class Interrupting(Recording):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            super().log_metrics(metrics, step)
            if step == 8:
                raise KeyboardInterrupt

    given = {"prepared": world, "seed": 0, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        train(config, **given, out=tmp_path / "parts", tracker=Interrupting())
    tracker = Recording()
    parts = train(config, **given, out=tmp_path / "parts", tracker=tracker)
    assert tracker.rows[0][0] == 7  # steps 7 and 8 once more, from the checkpoint of step 6
    whole = train(config, **given, out=tmp_path / "whole")
    assert parts == whole
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["model"]
    names = Path("model") / "model.safetensors"
    assert (tmp_path / "parts" / names).read_bytes() == (tmp_path / "whole" / names).read_bytes()


# ---- training files --------------------------------------------------------------------------------------------------


def write_file(world: Path, path: Path, kind: str) -> Path:
    """The world's questions as a training file; scores prefer the passages with the question's name, then with its
    city."""
    passages = {passage.id: passage.contents for passage in read_jsonl(world / "corpus.jsonl", Passage)}
    names = list(passages)
    lines = []
    for i, question in enumerate(read_jsonl(world / "questions" / "source.jsonl", Question)):
        gold = question.gold_passages[0]
        sister = gold.replace("home", "birth") if "home" in gold else gold.replace("birth", "home")
        others = [names[(7 * i + 11 * j) % len(names)] for j in range(1, 6)]
        others = [passages[name] for name in others if name not in (gold, sister)][:3]
        line: dict[str, object] = {"query": question.text, "pos": [passages[gold]]}
        if kind == "triplets":
            line["neg"] = [passages[sister], *others]
        if kind == "scored":
            line["pos"] = [passages[gold], passages[sister], *others]
            line["scores"] = [4.0, 2.0] + [0.0] * len(others)
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind, settings", [
    ("pairs", {}),
    ("triplets", {"num_negatives": 2, "matryoshka_dims": (16, 64)}),
    ("triplets", {"num_negatives": 4, "repeat_negatives": True, "gradient_caching": True, "tokens_per_forward": 100}),
    ("scored", {"max_texts": 3}),
])  # fmt: skip
def test_training_files_of_every_kind(world: Path, tmp_path: Path, kind: str, settings: dict[str, object]) -> None:
    data = write_file(world, tmp_path / "train.jsonl", kind)
    config = TRAINED.model_copy(update={"data": data, "held_out": 0.25, **settings})
    metrics = train(config, prepared=None, seed=0, out=tmp_path / "run", device="cpu")
    assert metrics["retriever/pairs"] == 96  # of 128 questions
    assert metrics["retriever/ndcg@10"] > metrics["retriever/start_ndcg@10"] + 0.05
    assert Encoder.load(tmp_path / "run" / "model", "cpu").dim == 64


def test_preferences_take_the_place_of_gold_passages(world: Path, tmp_path: Path) -> None:
    write_file(world, tmp_path / "preferences.jsonl", "scored")
    config = TRAINED.model_copy(update={"supervision": "preference"})
    metrics = train(config, prepared=world, preferences=tmp_path, seed=0, out=tmp_path / "run", device="cpu")
    assert metrics["retriever/pairs"] == 128
    assert metrics["retriever/recall@1"] > metrics["retriever/start_recall@1"]


def test_a_teacher_is_imitated(world: Path, tmp_path: Path) -> None:
    """Its vectors are wider than the model's: a linear layer makes up for it."""
    texts = [passage.contents for passage in read_jsonl(world / "corpus.jsonl", Passage)]
    words = sorted({word for text in texts for word in text.split()})
    random = np.random.default_rng(0).normal(size=(len(words), 96))
    vectors = np.array([np.sum([random[words.index(word)] for word in text.split()], 0) for text in texts])
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    memmap = np.memmap(tmp_path / "vectors.mmap", dtype="float32", mode="w+", shape=vectors.shape)
    memmap[:] = vectors
    memmap.flush()
    teacher = TeacherConfig(vectors=tmp_path / "vectors.mmap", num_dims=96)
    config = TRAINED.model_copy(
        update={"data": data, "teacher": teacher, "matryoshka_dims": (32, 96), "num_epochs": 30.0, "batch_size": 16}
    )
    train(config, prepared=None, seed=0, out=tmp_path / "run", device="cpu")
    encoder = Encoder.load(tmp_path / "run" / "model", "cpu")
    assert encoder.dim == 96
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = encoder.encode(texts, kind="passage")
    assert (found * unit).sum(1).mean() > 0.8  # nothing alike at the start: 0 in the mean
    short = found[:, :32] / np.linalg.norm(found[:, :32], axis=1, keepdims=True)
    assert np.corrcoef((short @ short.T).ravel(), (unit @ unit.T).ravel())[0, 1] > 0.8

    config = config.model_copy(update={"matryoshka_dims": ()})
    with pytest.raises(ValueError, match=r"vectors have 96 dimensions, the model's \(64,\): add 96 to"):
        train(config, prepared=None, seed=0, out=tmp_path / "other", device="cpu")


def test_a_guide_keeps_likely_positives_from_being_negatives(retriever_dir: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from trainers.retrieval.embedder import Embedder
    from trainers.retrieval.groups import Group
    from trainers.retrieval.losses import guided, in_batch_softmax

    model, guide = (SentenceTransformer(str(retriever_dir / "model"), device="cpu") for _ in range(2))
    learner = Embedder(model, TRAINED, "softmax", guide)
    assert {id(p) for p in learner.parameters()} == {id(p) for p in model.parameters()}
    queries = ["Where does Ada Adler live?", "Where does Bela Brand live?"]
    texts = ["Gina Gross lives in New Pell.", "Ada Adler lives in Port Nevin.", "Hugo Haas was born in New Pell."]
    groups = [Group(queries[0], (texts[0], texts[1]), (1.0, 0.0)), Group(queries[1], (texts[2],), (1.0,))]
    found = learner(**learner.collate(groups))["loss"]
    of_queries, of_texts = (model.encode(part, convert_to_tensor=True) for part in (queries, texts))
    positive = torch.tensor([0, 2])
    masked = guided(of_queries, of_texts, positive)
    assert masked[0].tolist() == [False, True, False]  # the passage about Ada is closer than the "positive"
    expected = in_batch_softmax(of_queries, of_texts, positive, temperature=TRAINED.temperature, masked=masked)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_settings_that_do_not_go_together() -> None:
    for settings, message in (
        ({"held_out": 0.1}, "held_out goes with data"),
        ({"loss": "scores"}, "the prepared questions have neither scores nor negatives"),
        ({"num_negatives": 1}, "the prepared questions have neither scores nor negatives"),
        ({"data": "x.jsonl", "supervision": "preference"}, "supervision=preference is for the prepared questions"),
        ({"data": "x.jsonl", "teacher": {"vectors": "v"}, "held_out": 0.1}, "held_out is for questions"),
        ({"data": "x.jsonl", "teacher": {"vectors": "v"}, "guide": "m"}, "guide is for losses with negatives"),
    ):
        with pytest.raises(ValueError, match=message):
            RetrieverConfig.model_validate(settings)
