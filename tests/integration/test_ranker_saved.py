"""Rankers that are folders of sentence-transformers, our own training's among them: scored as sentence-transformers
scores one pair, and late interaction as a straight line does."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from tokenizers import Tokenizer

from jointrag import Reranker
from jointrag.config import DecoderFormat
from jointrag.rankers.late_interaction import LateInteraction
from jointrag.rankers.loading import Loading
from jointrag.rankers.writing import Limits
from tests import ranker_models as tiny
from tests.ranker_models import LONG, PAIRS
from trainers.retrieval.decoder_format import as_reranker, load_decoder

TOLERANCE = 1e-4
SHORT = [pair for pair in PAIRS if len(pair[0]) + len(pair[1]) < 100]
PAIR_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def one_by_one(folder: Path, pairs: list[tuple[str, str]], **given: Any) -> list[float]:
    """By sentence-transformers, each pair alone: nothing is padded."""
    model = CrossEncoder(str(folder), device="cpu")
    return [float(model.predict([pair], activation_fn=torch.nn.Identity(), **given)[0]) for pair in pairs]


# ---- cross-encoders and decoders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "modernbert", "qwen2"])
def test_a_cross_encoder_with_a_prompt_and_a_length(kind: str, tmp_path: Path) -> None:
    model: Any = CrossEncoder(str(tiny.classifier(kind, tmp_path / "bare")), device="cpu", max_length=64)
    model.prompts, model.default_prompt_name = {"asked": "capital of: "}, "asked"
    model.save_pretrained(str(tmp_path / "saved"))
    reranker = Reranker(str(tmp_path / "saved"))
    assert reranker.ranker.max_length == 64
    pairs = [*SHORT, ("who wrote Faust?", LONG)]  # the document is the longer one, and is cut alike
    assert reranker.score(pairs) == pytest.approx(one_by_one(tmp_path / "saved", pairs), abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["gemma", "qwen3", "llama"])
def test_a_decoder_as_our_training_writes_it(kind: str, tmp_path: Path) -> None:
    """With a chat template (qwen3), which it leaves alone."""
    decoder: Any = load_decoder(str(tiny.decoder(kind, tmp_path / "bare")), device="cpu")
    decoder.tokenizer.pad_token = (
        decoder.tokenizer.pad_token or decoder.tokenizer.eos_token
    )  # sentence-transformers pads
    asked = DecoderFormat(query_format="A: {}", document_format="B: {}", closing="Relevant:", yes=" yes", no=" no")
    if kind != "qwen3":  # Yes and No are tokens of these vocabularies, with a space and without
        asked = asked.model_copy(update={"yes": "Yes", "no": "No"})
    as_reranker(decoder, asked).save_pretrained(str(tmp_path / "saved"))
    reranker = Reranker(str(tmp_path / "saved"))
    pairs = [*SHORT, ("who wrote Faust?", LONG * 3)]
    assert reranker.score(pairs) == pytest.approx(one_by_one(tmp_path / "saved", pairs), abs=TOLERANCE)


@pytest.mark.parametrize("prompt", [None, "Find the capital."])
@pytest.mark.parametrize("no", [None, 73])
def test_a_decoder_that_is_asked_in_its_chat_template(prompt: str | None, no: int | None, tmp_path: Path) -> None:
    bare = tiny.decoder("qwen3", tmp_path / "bare")
    (bare / "chat_template.jinja").write_text(PAIR_TEMPLATE)
    transformer = Transformer(str(bare), transformer_task="text-generation")
    assert "message" in transformer.modality_config
    model: Any = CrossEncoder(modules=[transformer, LogitScore(72, no)], device="cpu")
    if prompt is not None:
        model.prompts, model.default_prompt_name = {"asked": prompt}, "asked"
    model.save_pretrained(str(tmp_path / "saved"))
    reranker = Reranker(str(tmp_path / "saved"))
    assert reranker.score(SHORT) == pytest.approx(one_by_one(tmp_path / "saved", SHORT), abs=TOLERANCE)
    if prompt is None:  # another question, for the same model
        asked = reranker.ranker.with_settings(instruction="Find the capital.")
        expected = one_by_one(tmp_path / "saved", SHORT, prompt="Find the capital.")
        assert asked.score_batch(SHORT) == pytest.approx(expected, abs=TOLERANCE)
        assert reranker.score(SHORT) != pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_padding_and_truncation_that_a_tokenizer_was_saved_with_are_off(kind: str, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2's pads every text to 128 tokens."""
    folder = tiny.classifier(kind, tmp_path)
    plain = Reranker(folder, device="cpu", max_length=96).score(PAIRS)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_padding(length=40)
    backend.enable_truncation(20)
    backend.save(str(folder / "tokenizer.json"))
    assert Reranker(folder, device="cpu", max_length=96).score(PAIRS) == pytest.approx(plain, abs=1e-6)


def test_the_sigmoid_of_bce(tmp_path: Path) -> None:
    folder = tiny.classifier("xlm-roberta", tmp_path / "bce-reranker-base_v1")
    logits = Reranker(str(folder), sigmoid=False).score(PAIRS)
    reranker = Reranker(str(folder))
    assert reranker.score(PAIRS) == pytest.approx(torch.tensor(logits).sigmoid().tolist(), abs=1e-6)
    assert reranker.score(PAIRS, normalize=True) == reranker.score(PAIRS)


# ---- what cannot be right is an error --------------------------------------------------------------------------------


def test_a_model_without_the_head_is_an_error(tmp_path: Path) -> None:
    from transformers import BertModel

    folder = tiny.classifier("bert", tmp_path)
    BertModel.from_pretrained(folder).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"has no weights for classifier.bias, classifier.weight of a BertForSequence"):
        Reranker(str(folder), "cross_encoder")


def test_authors_code_only_runs_when_it_is_allowed(tmp_path: Path) -> None:
    folder = tiny.layerwise(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        Reranker(str(folder))


def test_layers_without_a_head_and_more_than_one(tmp_path: Path) -> None:
    folder = str(tiny.layerwise(tmp_path))
    for wrong in (1, 5, [2, 3]):
        with pytest.raises(ValueError, match="one layer, from 2 to 4"):
            Reranker(folder, trust_remote_code=True, cutoff_layers=wrong)
    reranker = Reranker(folder, trust_remote_code=True, cutoff_layers=[3])
    third, last = reranker.score(PAIRS), Reranker(folder, trust_remote_code=True).score(PAIRS)
    assert third != pytest.approx(last, abs=0.01)
    assert reranker.ranker.with_settings(cutoff_layers=[4]).score_batch(PAIRS) == pytest.approx(last)
    assert reranker.score(PAIRS) == pytest.approx(third)


def test_more_tokens_than_positions_is_an_error(tmp_path: Path) -> None:
    folder = str(tiny.classifier("xlm-roberta", tmp_path))
    assert Reranker(folder, max_length=256).score([("a", LONG)])
    with pytest.raises(ValueError, match=r"max_length=257, but .* has positions for 256 tokens"):
        Reranker(folder, max_length=257)


# ---- late interaction ------------------------------------------------------------------------------------------------


def straight_vectors(folder: Path, text_ids: list[int], attended: int | None = None) -> torch.Tensor:
    from transformers import BertModel

    bert = BertModel.from_pretrained(folder.parent / "bert", attn_implementation="eager").eval()
    (dense,) = (load_file(path)["linear.weight"] for path in folder.glob("*Dense*/model.safetensors"))
    mask = torch.ones(1, len(text_ids), dtype=torch.long)
    if attended is not None:
        mask[0, attended:] = 0
    with torch.no_grad():
        hidden = bert(input_ids=torch.tensor([text_ids]), attention_mask=mask).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden @ dense.T, dim=-1)


def straight_maxsim(
    folder: Path,
    tokenizer: Any,
    query: str,
    document_ids: list[int],
    *,
    prompts: tuple[str, str],
    expansion: int | None,
) -> float:
    """[CLS] prompt and text [SEP]; the query's vectors, [MASK]s included, each with the document's nearest that is no
    punctuation."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    query_ids = [cls, *ids(prompts[0] + query)[: (expansion or 40) - 2], sep]
    real = len(query_ids)
    if expansion is not None:
        query_ids += [tokenizer.mask_token_id] * (expansion - real)
    read = [cls, *ids(prompts[1]), *document_ids, sep]
    skipped = {tokenizer.convert_tokens_to_ids(mark) for mark in ".,?"}
    kept = [i for i, token in enumerate(read) if token not in skipped]
    queries = straight_vectors(folder, query_ids, attended=real)
    return (queries @ straight_vectors(folder, read)[kept].T).max(1).values.sum().item()


@pytest.mark.parametrize(
    ("prompts", "expansion"), [(("", ""), None), (("who: ", "passage B: "), 24)], ids=["plain", "prompts, expanded"]
)
def test_late_interaction_against_a_straight_line(
    prompts: tuple[str, str], expansion: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"query": prompts[0], "document": prompts[1]} if expansion else None
    folder = tiny.multi_vector(tmp_path, prompts=given, expansion=expansion)
    reranker = Reranker(str(folder))
    ranker = reranker.ranker
    assert isinstance(ranker, LateInteraction) and ranker.max_length == 48

    def straight(query: str, document: str, start: int = 0, end: int | None = None) -> float:
        room = 46 - len(ranker.tokenizer(prompts[1], add_special_tokens=False).input_ids)
        ids = ranker.tokenizer(document, add_special_tokens=False).input_ids[
            start : start + room if end is None else end
        ]
        return straight_maxsim(folder, ranker.tokenizer, query, ids, prompts=prompts, expansion=expansion)

    expected = [straight(*pair) for pair in PAIRS]
    assert reranker.score(PAIRS) == pytest.approx(expected, abs=TOLERANCE)
    assert "3 of 10 documents are longer than max_length=48 and were cut" in caplog.text
    alone = LateInteraction(str(folder), Loading())
    assert [alone.score_batch([pair])[0] for pair in PAIRS] == pytest.approx(expected, abs=TOLERANCE)
    (found,) = ranker.score([("who wrote Faust?", LONG)], Limits(48, windows=True, overlap=5))
    assert len(found) > 3
    for score in found:
        assert score.window is not None
        window = score.window.start_token, score.window.end_token
        assert score.value == pytest.approx(straight("who wrote Faust?", LONG, *window), abs=TOLERANCE)
    best = reranker.rank("who wrote Faust?", [LONG, "Goethe wrote Faust."])
    assert [one.unread_tokens > 0 for one in sorted(best, key=lambda one: one.index)] == [True, False]


def test_late_interaction_as_sentence_transformers_scores_it(tmp_path: Path) -> None:
    from sentence_transformers import MultiVectorEncoder

    folder = tiny.multi_vector(tmp_path, prompts={"query": "Q ", "document": "D "}, expansion=16)
    model = MultiVectorEncoder(str(folder), device="cpu")
    expected = [
        float(model.similarity(model.encode_query([query]), model.encode_document([text]))[0, 0])
        for query, text in PAIRS
    ]
    assert Reranker(str(folder), tokens_per_forward=200).score(PAIRS) == pytest.approx(expected, abs=TOLERANCE)


def test_late_interaction_normalised_keeps_the_order(tmp_path: Path) -> None:
    reranker = Reranker(str(tiny.multi_vector(tmp_path)))
    scores, between = reranker.score(PAIRS), reranker.score(PAIRS, normalize=True)
    assert sorted(range(len(PAIRS)), key=scores.__getitem__) == sorted(range(len(PAIRS)), key=between.__getitem__)
    assert all(0 < value < 1 for value in between) and len(set(between)) == len(set(scores))


def test_punctuation_alone_is_a_document_too(tmp_path: Path) -> None:
    folder = tiny.multi_vector(tmp_path)
    (value,) = Reranker(str(folder)).score([("capital?", string.punctuation)])
    assert abs(value) < 100
