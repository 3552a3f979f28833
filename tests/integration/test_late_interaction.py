"""Late-interaction models: losses as in sentence-transformers, which also loads the result; they learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorDistillKLDivLoss,
    MultiVectorMultipleNegativesRankingLoss,
)
from torch import Tensor

from jointrag.config import LateInteractionConfig, LoraSettings
from tests.integration.ranking_runs import late_interaction
from tests.integration.ranks import torchrun
from tests.word_rankers import MAX_LENGTH, WORDS, same_group, tiny_bert, tiny_decoder, write
from trainers.late_interaction import LateInteractionLearner, make_groups, make_model, train
from trainers.retrieval.backbone import prepare
from trainers.retrieval.fit import fit
from trainers.retrieval.groups import Group
from trainers.retrieval.losses import in_batch
from trainers.retrieval.records import open_records

TEXTS = ["bara deso", " ".join(WORDS[:20]), "lovi", " ".join(WORDS * 3)]
GROUPS = [
    Group("bara", ("bara deso", " ".join(WORDS[:20])), (1.0, 0.0)),
    Group("kivi deso", ("lora", "nazu muso kite"), (2.5, -1.0)),
    Group(" ".join(WORDS[3:9]), (" ".join(WORDS * 2), "kira"), (0.0, 0.5)),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", same_group(300, seed=1, num_negatives=3))


def settings(model: Path, **changes: Any) -> LateInteractionConfig:
    given = {"model": str(model), "dim": 16, "batch_size": 8, "learning_rate": 1e-3}
    return LateInteractionConfig.model_validate(given | changes)


def scores(model: MultiVectorEncoder) -> np.ndarray:
    queries, texts = model.encode_query(["bara", "kivi deso lora"]), model.encode_document(TEXTS)
    return model.similarity(queries, texts).numpy()


# ---- losses ----------------------------------------------------------------------------------------------------------


def loss_and_gradients(loss: Tensor, model: MultiVectorEncoder) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("loss", ["in_batch", "kl"])
@pytest.mark.parametrize("expansion", [None, 12])
def test_as_sentence_transformers_has_it(bert: Path, loss: Any, caching: bool, expansion: int | None) -> None:
    """In parts of like length, cached or not, against one padded batch a column."""
    config = settings(
        bert, temperature=2.0, query_expansion=expansion, score_temperature=1.5, tokens_per_forward=40,
        gradient_caching=caching,
    )  # fmt: skip
    torch.manual_seed(0)
    model = make_model(config, "cpu").train()
    learner = LateInteractionLearner(model, config, loss)
    found, gradients = loss_and_gradients(learner(**learner.collate(GROUPS))["loss"], model)

    columns: list[Sequence[str]] = [[group.query for group in GROUPS]]
    columns += zip(*(group.texts for group in GROUPS), strict=True)
    features = [
        model.preprocess(list(texts), task="document" if place else "query") for place, texts in enumerate(columns)
    ]
    if loss == "in_batch":
        expected = MultiVectorMultipleNegativesRankingLoss(model, scale=1 / 2.0)(features)
    else:
        reference = MultiVectorDistillKLDivLoss(model, student_temperature=2.0, teacher_temperature=1.5)
        labels = torch.tensor([group.labels for group in GROUPS])
        expected = reference(features, labels) / 2.0**2  # theirs is multiplied by it
    value, expected_gradients = loss_and_gradients(expected, model)
    assert found == pytest.approx(value, abs=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], atol=2e-6, rtol=1e-3)


def test_masked_texts_are_no_negatives() -> None:
    scores = torch.tensor([[2.0, 9.0, 1.0], [0.5, 3.0, 8.0]])
    masked = torch.tensor([[True, True, False], [False, False, True]])  # of the first one, the positive too: no matter
    loss = in_batch(scores, torch.tensor([0, 1]), masked)
    by_hand = (np.log(np.exp(2) + np.exp(1)) - 2 + np.log(np.exp(0.5) + np.exp(3)) - 3) / 2
    assert float(loss) == pytest.approx(by_hand, abs=1e-6)


def test_repeated_texts_and_what_a_guide_prefers_are_no_negatives(bert: Path) -> None:
    torch.manual_seed(0)
    config = settings(bert)
    model = make_model(config, "cpu")
    plain = LateInteractionLearner(model, config, "in_batch")

    def value(learner: LateInteractionLearner, *groups: Group) -> float:
        return float(learner(**learner.collate(groups))["loss"].detach())

    first, second = Group("bara", ("deso", "kite"), (1, 0)), Group("lovi", ("muvi",), (1,))
    again = Group("lovi", ("muvi", "deso"), (1, 0))  # the first one's positive as the second one's negative
    scores = model.similarity(model.encode_query(["bara", "lovi"]), model.encode_document(["deso", "kite", "muvi"]))
    others = torch.logsumexp(scores[1], 0)
    with_twice = torch.logsumexp(torch.cat([scores[1], scores[1, :1]]), 0)
    gap = value(plain, first, again) - value(plain, first, second)  # only the second query sees `deso` twice
    assert gap == pytest.approx(float(with_twice - others) / 2, abs=1e-5)

    guide = SentenceTransformer(str(bert), device="cpu")
    guided = LateInteractionLearner(model, config, "in_batch", guide)
    found = guide.similarity(guide.encode(["bara", "lovi"]), guide.encode(["deso", "kite", "muvi"]))
    left = [scores[0][found[0] <= found[0, 0]], scores[1][found[1] <= found[1, 2]]]
    expected = (torch.logsumexp(left[0], 0) - scores[0, 0] + torch.logsumexp(left[1], 0) - scores[1, 2]) / 2
    assert len(left[0]) + len(left[1]) < 6  # it prefers something
    assert value(guided, first, second) == pytest.approx(float(expected), abs=1e-5)
    assert not any("guide" in name for name, _ in guided.named_parameters())


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Texts of different lengths on each, in-batch negatives of both; and lists of different sizes."""
    first, second = torchrun(2, "late_interaction", tmp_path, late_interaction.__module__)
    alone = late_interaction(tmp_path)
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name])
        if not name.endswith("key.bias"):  # it cancels out: its gradient is rounding alone
            torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-4)  # they moved by up to 6e-3


# ---- it learns, and it loads -----------------------------------------------------------------------------------------


def test_learns_from_chance(bert: Path, data: Path, tmp_path: Path) -> None:
    dev = write(tmp_path / "dev.jsonl", same_group(60, seed=2, num_negatives=9))
    config = settings(bert, num_negatives=1, num_epochs=3, learning_rate=3e-3, batch_size=4)
    metrics = train(config, data=data, dev=dev, seed=0, out=tmp_path / "out", device="cpu")
    assert metrics["late_interaction/start_mrr@10"] < 0.6
    assert metrics["late_interaction/mrr@10"] > 0.9
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)])
@pytest.mark.parametrize("backbone", ["bert", "llama"])
def test_loads_with_sentence_transformers(
    bert: Path, data: Path, tmp_path: Path, backbone: str, lora: LoraSettings | None
) -> None:
    start = bert if backbone == "bert" else tiny_decoder(tmp_path / "start", "llama", pad=False)
    config = settings(start, lora=lora, num_negatives=1, max_length=20, max_query_length=10)
    torch.manual_seed(0)
    model = make_model(config, "cpu")
    before = scores(model)
    prepare(model, config, config.model)
    learner = LateInteractionLearner(model, config, "in_batch")
    groups = make_groups(config, "in_batch", open_records(data, cache=tmp_path / ".records")[:40], seed=0)
    fit(learner, groups, config, seed=0, out=tmp_path, name="late_interaction")
    after = scores(model)
    assert np.abs(after - before).max() > 1e-3
    loaded = MultiVectorEncoder(str(tmp_path / "model"), device="cpu")
    np.testing.assert_allclose(scores(loaded), after, atol=1e-5)
    assert loaded.encode_document([TEXTS[3]])[0].shape == (20, 16)
    assert loaded.encode_query([TEXTS[3]])[0].shape == (10, 16)
    assert not list((tmp_path / "model").rglob("*.bin"))
    again = make_model(LateInteractionConfig(model=str(tmp_path / "model")), "cpu")
    np.testing.assert_allclose(scores(again), after, atol=1e-5)


def test_a_teachers_scores(bert: Path, tmp_path: Path) -> None:
    texts = [" ".join(WORDS[i : i + 3]) for i in range(3)]
    lines = [{"query": f"{word} bara", "pos": texts, "scores": [-1.0, 2.0, 0.5]} for word in WORDS]
    data = write(tmp_path / "teacher.jsonl", lines)
    config = settings(bert, num_epochs=20, held_out=0.2, relevant_from=2.0, learning_rate=3e-3, batch_size=4)
    metrics = train(config, data=data, seed=0, out=tmp_path / "out", device="cpu")
    assert metrics["late_interaction/mrr@10"] == 1.0
    model = MultiVectorEncoder(str(tmp_path / "out" / "model"), device="cpu")
    found = model.similarity(model.encode_query(["lovi bara"]), model.encode_document(texts))[0]
    np.testing.assert_allclose((found - found[0]).numpy(), [0.0, 3.0, 1.5], atol=0.3)


# ---- models ----------------------------------------------------------------------------------------------------------


def test_the_chosen_dimension(bert: Path, tmp_path: Path) -> None:
    model = make_model(settings(bert, dim=32), "cpu")
    assert [vectors.shape[1] for vectors in model.encode_document(TEXTS)] == [32] * 4
    layer = next(module for module in model if isinstance(module, Dense))
    torch.testing.assert_close(layer.linear.weight @ layer.linear.weight.T, torch.eye(32), atol=1e-5, rtol=0)
    vectors = SentenceTransformer(str(bert), device="cpu").encode(TEXTS, output_value="token_embeddings")
    ours = model.encode_document(TEXTS)
    for theirs, mine in zip(vectors, ours, strict=True):  # all dimensions turned: similarities as they were
        theirs = torch.nn.functional.normalize(theirs, dim=-1)
        torch.testing.assert_close(mine @ mine.T, theirs @ theirs.T, atol=1e-4, rtol=0)
    model.save_pretrained(str(tmp_path / "own"))
    assert make_model(LateInteractionConfig(model=str(tmp_path / "own")), "cpu").get_embedding_dimension() == 32
    with pytest.raises(ValueError, match=r"late_interaction\.dim=16, but .*own has 32 dimensions of its own"):
        make_model(settings(tmp_path / "own"), "cpu")


def test_settings_that_cannot_work(bert: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave max_query_length out"):
        settings(bert, query_expansion=32, max_query_length=20)
    with pytest.raises(ValueError, match="guide is for in-batch negatives"):
        settings(bert, guide="any", loss="kl")
    with pytest.raises(ValueError, match=rf"late_interaction\.max_query_length=90.*takes {MAX_LENGTH} tokens at most"):
        make_model(settings(bert, max_query_length=90), "cpu")
    with pytest.raises(ValueError, match=r"late_interaction\.model='.*nowhere' cannot be loaded"):
        make_model(settings(tmp_path / "nowhere"), "cpu")
    with pytest.raises(ValueError, match=r'train\.jsonl, line 1: none of the fields "scores" and "pos_scores"'):
        train(settings(bert, loss="kl"), data=data, seed=0, out=tmp_path / "out", device="cpu")
    with pytest.raises(ValueError, match=r"set late_interaction\.data to a training file"):
        train(settings(bert), seed=0, out=tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
