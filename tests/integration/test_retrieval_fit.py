"""The training loop of retrieval models: exact resumption, gradient caching, several processes, guards."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from jointrag.config import LoraSettings, RetrieverConfig
from jointrag.tracking import NoTracker
from tests.integration import retrieval_runs
from tests.integration.ranks import torchrun
from tests.integration.retrieval_runs import CONFIG, shared, train, triplets
from tests.tiny_retrievers import sentences, tiny_decoder, tiny_encoder
from trainers.retrieval.backbone import merge_adapters, prepare
from trainers.retrieval.embedder import Embedder, widen
from trainers.retrieval.fit import CHECKPOINTS, fit
from trainers.retrieval.learner import Outputs


class Recording(NoTracker):
    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))


def with_(**settings: Any) -> RetrieverConfig:
    return CONFIG.model_copy(update=settings)


# ---- resuming --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return train(tmp_path_factory.mktemp("undisturbed"))[0]


@pytest.mark.parametrize("moment, left", [
    ("step 7", ["checkpoint-4"]), ("epoch to step 8", ["checkpoint-7"]),
    ("in checkpoint 8", ["checkpoint-4", "checkpoint-8"]),
    ("between checkpoints 16", ["checkpoint-12", "checkpoint-16"]),
])  # fmt: skip
def test_killed_training_ends_with_the_same_weights(
    undisturbed: dict[str, Tensor], tmp_path: Path, moment: str, left: list[str]
) -> None:
    command = [sys.executable, "-m", retrieval_runs.__name__, "killed", str(tmp_path), moment]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).glob("checkpoint-*")) == sorted(left)
    assert not (tmp_path / "model").exists()
    tracker = Recording()
    weights, result = train(tmp_path, tracker=tracker)
    resumed_at = int(left[0].split("-")[1])
    assert tracker.rows[0][0] == resumed_at + 1
    assert result.steps == 18
    assert weights.keys() == undisturbed.keys()
    assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)
    assert not (tmp_path / CHECKPOINTS).exists()


def test_killed_after_the_last_step(undisturbed: dict[str, Tensor], tmp_path: Path) -> None:
    """Nothing is left to train; the model is written from the last checkpoint."""

    class Saving(Embedder):
        def save(self, folder: Path) -> None:
            raise KeyboardInterrupt

    learner = Saving(tiny_encoder(dropout=0.1), CONFIG, "softmax")
    with pytest.raises(KeyboardInterrupt):
        fit(learner, triplets(tmp_path), CONFIG, seed=0, out=tmp_path)
    weights, result = train(tmp_path)
    assert result.steps == 18
    assert all(torch.equal(weights[name], undisturbed[name]) for name in weights)


def test_checkpoints_of_another_training_are_not_taken(tmp_path: Path) -> None:
    class Stop(NoTracker):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, tracker=Stop())
    with pytest.raises(
        ValueError, match=r"checkpoints of another training \(learning_rate, weight_decay differ\); delete it"
    ):
        train(tmp_path, with_(learning_rate=1e-3, weight_decay=0.1))
    with pytest.raises(ValueError, match=r"another training \(examples, num_negatives differ\)"):  # other texts
        train(tmp_path, with_(num_negatives=1))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, with_(evaluate_every=2, tokens_per_forward=80), tracker=Stop())  # these may change


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradients(config: RetrieverConfig, out: Path, scale: float = 1.0) -> tuple[float, list[Tensor]]:
    learner = Embedder(tiny_encoder(dropout=0.2), config, "softmax")
    groups = triplets(out)
    batch = learner.collate([groups[0, i] for i in range(12)])
    torch.manual_seed(7)
    loss = learner.train()(**batch)["loss"]
    (loss * scale).backward()
    return loss.item(), [p.grad for p in learner.parameters() if p.grad is not None]


@pytest.mark.parametrize("dims", [(), (8, 32)])
def test_gradient_caching_changes_nothing_but_memory(tmp_path: Path, dims: tuple[int, ...]) -> None:
    """With dropout: the second pass draws the masks of the first."""
    loss, expected = gradients(with_(matryoshka_dims=dims), tmp_path)
    cached, found = gradients(with_(matryoshka_dims=dims, gradient_caching=True), tmp_path)
    assert cached == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    _, halved = gradients(with_(matryoshka_dims=dims, gradient_caching=True), tmp_path, scale=0.5)
    torch.testing.assert_close(halved, [gradient / 2 for gradient in expected], atol=1e-6, rtol=1e-4)


def test_gradient_caching_holds_one_part_at_a_time(tmp_path: Path) -> None:
    """What autograd keeps for the backward pass, at its most."""

    def most_kept(caching: bool) -> int:
        learner = Embedder(tiny_encoder(), with_(gradient_caching=caching), "softmax")
        groups = triplets(tmp_path)
        batch = learner.collate([groups[0, i] for i in range(40)])
        kept = most = 0

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal kept, most
                self.tensor = tensor
                kept += tensor.numel()
                most = max(most, kept)

            def __del__(self) -> None:
                nonlocal kept
                kept -= self.tensor.numel()

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            learner(**batch)["loss"].backward()
        return most

    assert most_kept(True) < most_kept(False) / 5


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    first, second = torchrun(2, "shared", tmp_path, retrieval_runs.__name__)
    alone = shared(tmp_path)
    for caching in (False, True):
        assert first[caching]["steps"] == alone[caching]["steps"]
        assert first[caching]["loss"] == pytest.approx(alone[caching]["loss"], abs=1e-5)
        for name, weight in alone[caching]["weights"].items():
            torch.testing.assert_close(first[caching]["weights"][name], weight, rtol=0, atol=1e-5)
            assert torch.equal(first[caching]["weights"][name], second[caching]["weights"][name])
        assert first[caching]["metrics"] == second[caching]["metrics"] == {"rank": 1.0}  # the first process measures
    assert first["stage"] == second["stage"]
    assert first["stage"] == pytest.approx(alone["stage"], abs=1e-4)
    assert first["stage"]["retriever/pairs"] == 24
    assert [path.name for path in (tmp_path / "2 stage" / "run").iterdir()] == ["model"]


# ---- what is kept, what is said --------------------------------------------------------------------------------------


def test_the_best_model_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    learner = Embedder(tiny_encoder(), with_(evaluate_every=5), "softmax")
    scores, seen = iter([0.2, 0.9, 0.9, 0.3]), []

    def evaluate() -> dict[str, float]:
        assert not learner.training
        seen.append({name: weight.detach().clone() for name, weight in learner.state_dict().items()})
        return {"ndcg@10": next(scores), "other": float(len(seen))}

    tracker = Recording()
    settings = with_(evaluate_every=5)
    result = fit(learner, triplets(tmp_path), settings, seed=0, out=tmp_path, tracker=tracker, evaluate=evaluate)
    assert len(seen) == 4  # after steps 5, 10, 15 and 18
    assert result.metrics == {"ndcg@10": 0.9, "other": 2.0}  # the first of the two best
    assert all(torch.equal(weight, seen[1][name]) for name, weight in learner.state_dict().items())
    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu").state_dict()
    assert all(torch.equal(weight, learner.model.state_dict()[name]) for name, weight in saved.items())
    measured = [(step, row["retriever/ndcg@10"]) for step, row in tracker.rows if "retriever/ndcg@10" in row]
    assert measured == [(5, 0.2), (10, 0.9), (15, 0.9), (18, 0.3)]
    losses = [row["retriever/step_loss"] for _, row in tracker.rows if "retriever/step_loss" in row]
    assert len(losses) == 18
    assert losses[-1] < losses[0]
    assert math.isfinite(result.loss) and result.loss == losses[-1]
    assert any("retriever 18/18 · loss" in record.getMessage() for record in caplog.records)
    assert any("ndcg@10 0.9000" in record.getMessage() for record in caplog.records)


class Broken(Embedder):
    """Its loss is no number at the given passes."""

    def __init__(self, *args: Any, at: set[int]) -> None:
        super().__init__(*args)
        self.at, self.passes = at, 0

    def loss(self, outputs: dict[str, Outputs], targets: dict[str, Tensor]) -> Tensor:
        self.passes += 1
        return super().loss(outputs, targets) * (math.nan if self.passes in self.at else 1.0)


def test_steps_without_a_number_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    learner = Broken(tiny_encoder(), CONFIG, "softmax", at={1, 2, 5, 6, 18})
    result = fit(learner, triplets(tmp_path), CONFIG, seed=0, out=tmp_path)
    assert result.steps == 18
    assert all(torch.isfinite(weight).all() for weight in learner.state_dict().values())
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("the step is left out" in line for line in said) == 5
    only = Broken(tiny_encoder(), with_(num_epochs=0.3), "softmax", at={1, 2})
    before = {name: weight.clone() for name, weight in only.state_dict().items()}
    fit(only, triplets(tmp_path), with_(num_epochs=0.25), seed=0, out=tmp_path / "only")
    assert all(torch.equal(weight, before[name]) for name, weight in only.state_dict().items())


def test_the_third_in_a_row_ends_it(tmp_path: Path) -> None:
    learner = Broken(tiny_encoder(), CONFIG, "softmax", at={6, 7, 8})
    with pytest.raises(ValueError, match=r"step 8: the loss is nan.*3rd time in a row; lower learning_rate"):
        fit(learner, triplets(tmp_path), CONFIG, seed=0, out=tmp_path)
    assert (tmp_path / CHECKPOINTS / "checkpoint-4").is_dir()


def test_a_loss_that_teaches_nothing_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone = with_(batch_size=1, num_negatives=0, num_epochs=0.8)  # every positive is the only text
    fit(Embedder(tiny_encoder(), alone, "softmax"), triplets(tmp_path, alone), alone, seed=0, out=tmp_path)
    (said,) = [record.getMessage() for record in caplog.records if "the loss has been" in record.getMessage()]
    assert "the loss has been 0 for 20 steps" in said and "a batch of one query without negatives" in said
    caplog.clear()

    class Collapsed(Embedder):
        def loss(self, outputs: dict[str, Outputs], targets: dict[str, Tensor]) -> Tensor:
            return super().loss(
                {name: {key: t * 0 + 1 for key, t in o.items()} for name, o in outputs.items()}, targets
            )

    constant = with_(batch_size=4, num_epochs=2.0)
    fit(Collapsed(tiny_encoder(), constant, "softmax"), triplets(tmp_path), constant, seed=0, out=tmp_path / "constant")
    (said,) = [record.getMessage() for record in caplog.records if "the loss has been" in record.getMessage()]
    assert "the loss has been 2.48491 for 20 steps" in said  # log 12
    assert "gives every text the same vector" in said


# ---- settings --------------------------------------------------------------------------------------------------------


def test_batches_must_divide(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size=6 has to be a multiple of gradient_accumulation=4 x 1 processes"):
        train(tmp_path, with_(gradient_accumulation=4))


def test_accumulated_gradients_make_one_step(tmp_path: Path) -> None:
    weights, result = train(tmp_path, with_(gradient_accumulation=3))
    assert result.steps == 18
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_frozen_weights_are_an_error(tmp_path: Path) -> None:
    learner = Embedder(tiny_encoder().requires_grad_(False), CONFIG, "softmax")
    with pytest.raises(ValueError, match="all weights are frozen"):
        fit(learner, triplets(tmp_path), CONFIG, seed=0, out=tmp_path)


def test_half_precision_trains_float32_weights(tmp_path: Path) -> None:
    weights, result = train(tmp_path, with_(precision="bf16", gradient_caching=True))
    assert result.loss < 1.5
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caching", [False, True])
def test_adapters_of_a_decoder_become_part_of_it(tmp_path: Path, caching: bool) -> None:
    settings = with_(lora=LoraSettings(r=4, alpha=8), gradient_caching=caching, learning_rate=1e-2)
    model = tiny_decoder()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    prepare(model, settings, "a tiny decoder")
    learner = Embedder(model, settings, "softmax")
    trained = [name for name, p in learner.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    result = fit(learner, triplets(tmp_path), settings, seed=0, out=tmp_path)
    assert result.loss < 1.5
    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert saved.state_dict().keys() == before.keys()
    changed = [name for name, weight in saved.state_dict().items() if not torch.equal(weight, before[name])]
    assert changed and all("proj" in name for name in changed)
    texts = sentences(5, seed=9)
    merge_adapters(model)
    torch.testing.assert_close(saved.encode(texts), model.encode(texts), atol=1e-5, rtol=1e-5)
    assert not list((tmp_path / "model").rglob("*.bin"))
    assert list((tmp_path / "model").rglob("*.safetensors"))


def test_interrupted_adapters_go_on(tmp_path: Path) -> None:
    settings = with_(lora=LoraSettings(r=2, alpha=4))

    def run(out: Path, stop: bool) -> dict[str, Tensor]:
        class Tracker(NoTracker):
            def log_metrics(self, metrics: dict[str, float], step: int) -> None:
                if stop and step == 6:
                    raise KeyboardInterrupt

        model = tiny_decoder()
        torch.manual_seed(3)
        prepare(model, settings, "a tiny decoder")
        fit(Embedder(model, settings, "softmax"), triplets(out), settings, seed=0, out=out, tracker=Tracker())
        return model.state_dict()

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = run(tmp_path / "whole", stop=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop=True)
    (checkpoint,) = (tmp_path / "parts" / CHECKPOINTS).glob("checkpoint-*/model.safetensors")
    assert checkpoint.stat().st_size < 60_000  # the adapters alone
    parts = run(tmp_path / "parts", stop=False)
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())


def test_a_linear_layer_makes_more_dimensions(tmp_path: Path) -> None:
    model = tiny_encoder()
    texts = sentences(6, seed=2)
    before = model.encode(texts)
    widen(model, 48)
    vectors = model.encode(texts)
    assert vectors.shape == (6, 48)
    torch.testing.assert_close(vectors @ vectors.T, before @ before.T, atol=1e-5, rtol=1e-5)  # the map is orthogonal
    settings = with_(matryoshka_dims=(8, 48))
    fit(Embedder(model, settings, "softmax"), triplets(tmp_path), settings, seed=0, out=tmp_path)
    saved = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert saved.get_embedding_dimension() == 48
    torch.testing.assert_close(saved.encode(texts), model.encode(texts))
    widen(model, 16)
    assert model.get_embedding_dimension() == 48


def test_lengths_and_padding_are_checked_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_length=65, but tiny takes 64 tokens at most"):
        prepare(tiny_encoder(), with_(max_length=65), "tiny")
    with pytest.raises(ValueError, match=r"lora\.targets=\('nowhere',\)"):
        prepare(tiny_decoder(), with_(lora=LoraSettings(targets=("nowhere",))), "tiny")
    model = tiny_decoder()
    model.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="tiny: its tokenizer has neither a padding nor an end token"):
        prepare(model, CONFIG, "tiny")
    model.tokenizer.eos_token = "[SEP]"
    prepare(model, CONFIG, "tiny")
    assert model.tokenizer.pad_token == "[SEP]"
    shutil.rmtree(tmp_path)
