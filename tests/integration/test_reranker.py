"""Rerankers of all backbones: they learn, and plain sentence-transformers scores as they did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from torch.nn import functional

from jointrag.config import DecoderFormat, LoraSettings, RerankerConfig
from jointrag.tracking import NoTracker
from tests.integration.ranking_runs import reranking
from tests.integration.ranks import torchrun
from tests.word_rankers import MAX_LENGTH, WORDS, same_group, tiny_bert, tiny_decoder, write
from trainers.reranker import RerankerLearner, make_groups, make_model, train
from trainers.retrieval.backbone import prepare
from trainers.retrieval.fit import fit
from trainers.retrieval.groups import Group
from trainers.retrieval.records import open_records

PAIRS = [
    ("bara deso", "deso kite bara mute"),
    ("bara deso", "lovi"),
    ("muvi", " ".join(WORDS)),
    (" ".join(WORDS * 3), "bara"),
    (" ".join(WORDS * 3), " ".join(WORDS * 5)),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("decoder"), request.param)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "train.jsonl", same_group(300, seed=1, num_negatives=3))


@pytest.fixture(scope="module")
def dev(data: Path) -> Path:
    return write(data.parent / "dev.jsonl", same_group(60, seed=2, num_negatives=9))


def settings(model: Path, **changes: Any) -> RerankerConfig:
    given = {"model": str(model), "num_negatives": 3, "repeat_negatives": True, "batch_size": 16, "learning_rate": 3e-3}
    return RerankerConfig.model_validate(given | changes)


def scores(model: CrossEncoder) -> np.ndarray:
    return model.predict(PAIRS, activation_fn=torch.nn.Identity())


# ---- it learns, and it loads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "num_negatives", "num_epochs"), [("listwise", 3, 4), ("point_ce", 1, 10)])
def test_learns_from_chance(
    bert: Path, data: Path, dev: Path, tmp_path: Path, loss: str, num_negatives: int, num_epochs: int
) -> None:
    config = settings(bert, loss=loss, num_negatives=num_negatives, num_epochs=num_epochs)
    metrics = train(config, data=data, dev=dev, seed=0, out=tmp_path / "out", device="cpu")
    assert metrics["reranker/start_mrr@10"] < 0.45  # by chance: 0.29
    assert metrics["reranker/mrr@10"] > 0.9
    assert metrics["reranker/ndcg@10"] > metrics["reranker/start_ndcg@10"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
    model = CrossEncoder(str(tmp_path / "out" / "model"), device="cpu")
    right = 0
    for line in map(json.loads, dev.read_text().splitlines()):
        found = model.predict([(line["query"], text) for text in (*line["pos"], *line["neg"])])
        right += int(found.argmax() == 0)
    assert right > 50


def trained(config: RerankerConfig, data: Path, out: Path) -> tuple[np.ndarray, np.ndarray, Path]:
    """Scores before and after two epochs, in the process that trained; and the folder."""
    torch.manual_seed(0)
    model = make_model(config, "cpu")
    before = scores(model)
    prepare(model, config, config.model)
    records = open_records(data, cache=out / ".records")[:40]
    fit(RerankerLearner(model, config), make_groups(config, records, seed=0), config, seed=0, out=out, name="reranker")
    return before, scores(model), out / "model"


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)])
def test_encoder_loads_with_sentence_transformers(
    bert: Path, data: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    before, after, folder = trained(settings(bert, lora=lora, max_length=40), data, tmp_path)
    assert np.abs(after - before).max() > 1e-3
    loaded = CrossEncoder(str(folder), device="cpu")
    np.testing.assert_allclose(scores(loaded), after, atol=1e-5)
    assert loaded.max_seq_length == 40
    assert not list(folder.rglob("adapter*"))
    assert not list(folder.rglob("*.bin"))
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)])
def test_decoder_loads_with_sentence_transformers(
    decoder: Path, data: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    before, after, folder = trained(settings(decoder, lora=lora, max_length=60), data, tmp_path)
    assert np.abs(after - before).max() > 1e-3
    loaded = CrossEncoder(str(folder), device="cpu")
    np.testing.assert_allclose(scores(loaded), after, atol=1e-5)
    one_by_one = [loaded.predict([pair], activation_fn=torch.nn.Identity())[0] for pair in PAIRS]
    np.testing.assert_allclose(one_by_one, after, atol=1e-5)  # padding makes no difference
    assert not list(folder.rglob("*.bin"))
    again = make_model(settings(folder), "cpu")  # what was trained once can be trained on
    np.testing.assert_allclose(scores(again), after, atol=1e-5)


def test_a_reranker_with_a_chat_template_and_a_prompt(data: Path, tmp_path: Path) -> None:
    """As published ones have them: query and document are roles, an instruction is the default prompt."""
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}relevant:"
    decoder = Transformer(str(tiny_decoder(tmp_path / "decoder")), transformer_task="text-generation")
    tokenizer: Any = decoder.tokenizer
    tokenizer.chat_template = template
    yes, no = tokenizer.convert_tokens_to_ids(["Ġyes", "Ġno"])
    start = CrossEncoder(
        modules=[decoder, LogitScore(yes, no)], device="cpu", prompts={"web": "bara!"}, default_prompt_name="web"
    )
    start.save_pretrained(str(tmp_path / "start"))
    config = settings(tmp_path / "start", max_length=60)
    batch = RerankerLearner(make_model(config, "cpu"), config).collate([Group("kite", ("deso",), (1.0,))])
    read = tokenizer.decode(batch["features"]["pair"]["input_ids"][0])
    assert read == "system: bara!\nquery: kite\ndocument: deso\nrelevant:"
    _, after, folder = trained(config, data, tmp_path / "out")
    np.testing.assert_allclose(scores(CrossEncoder(str(folder), device="cpu")), after, atol=1e-5)


def test_training_that_was_interrupted_goes_on(bert: Path, data: Path, dev: Path, tmp_path: Path) -> None:
    class Stopped(NoTracker):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            if step == 13:
                raise KeyboardInterrupt

    config = settings(bert, num_epochs=1.0, checkpoint_every=5)
    train(config, data=data, dev=dev, seed=0, out=tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train(config, data=data, dev=dev, seed=0, out=tmp_path / "parts", device="cpu", tracker=Stopped())
    assert not (tmp_path / "parts" / "model").exists()
    train(config, data=data, dev=dev, seed=0, out=tmp_path / "parts", device="cpu")
    whole, parts = (CrossEncoder(str(tmp_path / name / "model"), device="cpu") for name in ("whole", "parts"))
    np.testing.assert_array_equal(scores(whole), scores(parts))


# ---- the loss of a batch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caching", [False, True])
def test_a_batch_in_parts_of_like_length_is_the_batch(bert: Path, caching: bool) -> None:
    """Against every pair by itself, and binary cross-entropy of them all."""
    groups = [
        Group("bara", ("bara deso", " ".join(WORDS[:20])), (1.0, 0.0)),
        Group("kivi deso", ("lora", "nazu muso", " ".join(WORDS * 3)), (0.75, 0.0, 0.25)),
    ]
    config = settings(bert, loss="point_ce", tokens_per_forward=40, gradient_caching=caching)
    torch.manual_seed(0)
    model = make_model(config, "cpu").train()
    loss = RerankerLearner(model, config)(**RerankerLearner(model, config).collate(groups))["loss"]
    loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    logits = [
        model(model.preprocess([(group.query, text)]))["scores"].view(()) for group in groups for text in group.texts
    ]
    labels = torch.tensor([label for group in groups for label in group.labels])
    expected = functional.binary_cross_entropy_with_logits(torch.stack(logits), labels)
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, atol=1e-6, rtol=1e-4)


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Groups of different sizes: the processes have different numbers of pairs."""
    first, second = torchrun(2, "reranking", tmp_path, reranking.__module__)
    alone = reranking(tmp_path)
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name])
        if not name.endswith(("key.bias", "classifier.bias")):  # they cancel out: their gradient is rounding alone
            torch.testing.assert_close(first[name], weight, rtol=0, atol=1e-4)  # they moved by up to 6e-3


# ---- data and labels -------------------------------------------------------------------------------------------------


def graded(path: Path, scores: list[float], **more: Any) -> Path:
    texts = [" ".join(WORDS[i : i + 3]) for i in range(len(scores))]
    return write(path, [{"query": f"{word} bara", "pos": texts, "pos_scores": scores, **more} for word in WORDS])


def groups_of(config: RerankerConfig, path: Path) -> Any:
    return make_groups(config, open_records(path, cache=path.parent / ".records"), seed=0)


def test_graded_labels_are_scaled_evenly(bert: Path, tmp_path: Path) -> None:
    path = graded(tmp_path / "graded.jsonl", [3, 0, 1, 2])
    group = groups_of(settings(bert, min_label=0, max_label=3), path)[0, 0]
    assert group.labels == pytest.approx((1.0, 0.0, 1 / 3, 2 / 3))
    assert len(group.texts) == 4
    drawn = groups_of(settings(bert, min_label=0, max_label=3, max_texts=2), path)[0, 0]
    assert drawn.labels == pytest.approx((1.0, 0.0))  # of many texts, the best and the worst stay
    binary = write(tmp_path / "binary.jsonl", same_group(3, seed=0, num_negatives=3))
    assert groups_of(settings(bert, num_negatives=2), binary)[0, 0].labels == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("loss", ["kl", "margin_mse", "pairwise"])
def test_learns_a_teachers_scores(bert: Path, tmp_path: Path, loss: str) -> None:
    """The model ends up ordering the texts as the teacher does, and as far apart where that is what it learns."""
    teacher = [-1.0, 2.0, 0.5]
    path = graded(tmp_path / "teacher.jsonl", teacher)
    config = settings(bert, loss=loss, num_epochs=40, learning_rate=1e-3, relevant_from=2.0, held_out=0.2, batch_size=4)
    metrics = train(config, data=path, seed=0, out=tmp_path / "out", device="cpu")
    assert metrics["reranker/mrr@10"] == 1.0
    model = CrossEncoder(str(tmp_path / "out" / "model"), device="cpu")
    texts = [" ".join(WORDS[i : i + 3]) for i in range(3)]
    found = model.predict([("lovi bara", text) for text in texts], activation_fn=torch.nn.Identity())
    assert found.argsort().tolist() == np.argsort(teacher).tolist()
    if loss != "pairwise":
        np.testing.assert_allclose(found - found[0], np.array(teacher) - teacher[0], atol=0.2)


@pytest.mark.parametrize(("changes", "scores", "message"), [
    ({"loss": "point_ce"}, [3, 1], r"line 1: loss=point_ce wants labels from 0 to 1.* scores are 1 … 3; set min_label"),
    ({"loss": "listwise"}, [3, -1], r"loss=listwise wants labels of 0 or more, and the file's scores are -1 … 3"),
    ({"loss": "lambda"}, [100, 1], r"loss=lambda wants labels from 0 to 20"),
    ({"loss": "listwise"}, [1], r"no query has two texts, and loss=listwise compares"),
    ({"min_label": 0, "max_label": 2}, [3, 1], r"graded\.jsonl, line 1: score 3 is outside min_label=0 … max_label=2"),
    ({"loss": "kl", "labels": "binary"}, [1, 0], r"loss=kl learns from scores; leave labels=auto"),
])  # fmt: skip
def test_labels_that_do_not_fit_the_loss(
    bert: Path, tmp_path: Path, changes: dict[str, Any], scores: list[float], message: str
) -> None:
    path = graded(tmp_path / "graded.jsonl", scores)
    with pytest.raises(ValueError, match=message):
        groups_of(settings(bert, **changes), path)


def test_data_that_the_loss_cannot_use(bert: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r'train\.jsonl, line 1: none of the fields "scores" and "pos_scores"'):
        train(settings(bert, loss="kl"), data=data, seed=0, out=out, device="cpu")
    pairs = write(tmp_path / "pairs.jsonl", [{"query": word, "pos": [f"{word} bara"]} for word in WORDS])
    with pytest.raises(ValueError, match=r'pairs\.jsonl, line \d+: no field "neg"'):
        train(settings(bert), data=pairs, seed=0, out=out, device="cpu")
    with pytest.raises(ValueError, match=r"line \d+: [23] usable negatives, and num_negatives=5 asks for 5"):
        train(settings(bert, num_negatives=5, repeat_negatives=False), data=data, seed=0, out=out, device="cpu")
    teacher = graded(tmp_path / "teacher.jsonl", [0.5, -2.0])
    with pytest.raises(ValueError, match=r"teacher\.jsonl, line \d+.*relevant_from"):
        train(settings(bert, loss="kl"), data=teacher, seed=0, out=out, device="cpu")
    assert not out.exists()


# ---- settings that cannot work ---------------------------------------------------------------------------------------


def test_settings_that_exclude_each_other(bert: Path) -> None:
    with pytest.raises(ValueError, match="rerankers have max_length"):
        settings(bert, max_query_length=10)
    with pytest.raises(ValueError, match="give both or neither"):
        settings(bert, min_label=0)
    with pytest.raises(ValueError, match=r"min_label=3\.0 has to be below max_label=0\.0"):
        settings(bert, min_label=3, max_label=0)
    with pytest.raises(ValueError, match=r"query_format='query:' needs \{\} once"):
        DecoderFormat(query_format="query:")


def test_models_that_cannot_be_rerankers(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reranker\.model='.*nowhere' cannot be loaded"):
        make_model(settings(tmp_path / "nowhere"), "cpu")
    with pytest.raises(ValueError, match=rf"reranker\.max_length=400.*takes {MAX_LENGTH} tokens at most"):
        make_model(settings(bert, max_length=400), "cpu")
    with pytest.raises(ValueError, match=r"reranker\.decoder is for causal language models"):
        make_model(settings(bert, decoder=DecoderFormat()), "cpu")
    classes = CrossEncoder(str(bert), num_labels=3, device="cpu")
    classes.save_pretrained(str(tmp_path / "classes"))
    with pytest.raises(ValueError, match="gives 3 scores for a pair"):
        make_model(settings(tmp_path / "classes"), "cpu")
    pickled = Path(shutil.copytree(bert, tmp_path / "pickled"))
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        make_model(settings(pickled), "cpu")


# ---- decoders --------------------------------------------------------------------------------------------------------

FORMAT = DecoderFormat(query_format="query: {}\n", document_format="document: {}\n", closing="relevant:")


def ids(model: CrossEncoder, query: str, text: str) -> tuple[list[int], str]:
    found = model.preprocess([(query, text)])["input_ids"][0].tolist()
    return found, model.tokenizer.decode(found)


def test_a_decoder_reads_the_format(decoder: Path) -> None:
    model = make_model(settings(decoder, decoder=FORMAT), "cpu")
    begin = "<s>" if model.tokenizer.bos_token_id is not None else ""
    assert ids(model, "bara deso", "kite")[1] == f"{begin}query: bara deso\ndocument: kite\nrelevant:"
    assert model.tokenizer.decode(model.tokenizer("bara").input_ids) == f"{begin}bara"  # a text alone as before
    yes, no = (model.tokenizer(f"relevant:{word}", add_special_tokens=False).input_ids[-1] for word in (" yes", " no"))
    assert (model[1].true_token_id, model[1].false_token_id) == (yes, no)


def test_what_stands_around_a_pair_is_never_cut(decoder: Path) -> None:
    model = make_model(settings(decoder, decoder=FORMAT, max_length=60), "cpu")
    long, short = " ".join(WORDS * 3), "kite"
    for query, text in ((long, long), (long, short), (short, long)):
        found, read = ids(model, query, text)
        assert len(found) == 60
        assert read.removeprefix("<s>").startswith("query: ")
        assert "\ndocument: " in read
        assert read.endswith("\nrelevant:")
        if short in (query, text):
            assert f" {short}\n" in read
    room = 60 - model.tokenizer.num_special_tokens_to_add(pair=True)
    query = ids(model, long, long)[1].split("query: ")[1].split("\n")[0]
    assert len(model.tokenizer(query, add_special_tokens=False).input_ids) <= room * 3 / 4


def test_an_answer_is_one_token(decoder: Path) -> None:
    with pytest.raises(ValueError, match=r"decoder\.yes=' certainly' has to be one token"):
        make_model(settings(decoder, decoder=DecoderFormat(yes=" certainly")), "cpu")
    alone = make_model(settings(decoder, decoder=DecoderFormat(no=None)), "cpu")
    assert alone[1].false_token_id is None
    assert np.isfinite(scores(alone)).all()
    with pytest.raises(ValueError, match=r"max_length=12, of which \d+ tokens go to what stands around"):
        make_model(settings(decoder, max_length=12), "cpu")


def test_a_decoder_without_a_padding_token(tmp_path: Path, data: Path) -> None:
    folder = tiny_decoder(tmp_path / "decoder", "llama", pad=False)
    _, after, written = trained(settings(folder, max_length=60), data, tmp_path / "out")
    np.testing.assert_allclose(scores(CrossEncoder(str(written), device="cpu")), after, atol=1e-5)
