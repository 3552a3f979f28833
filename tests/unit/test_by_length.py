"""Forward passes by length give what one padded batch gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertForSequenceClassification

from jointrag.by_length import Features, run_by_length, split_by_length
from tests.tiny_retrievers import WORDS, sentences, tiny_decoder, tiny_encoder

MODELS = {
    "encoder": tiny_encoder,
    "decoder": tiny_decoder,
    "decoder, padded on the left": partial(tiny_decoder, padding_side="left"),
}


def tokens(model: SentenceTransformer, texts: list[str]) -> Features:
    return dict(model.preprocess(texts))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_one_padded_batch(name: str) -> None:
    model = MODELS[name]().eval()
    features = tokens(model, sentences(23, seed=1))
    whole = model(dict(features))
    widths = []

    def forward(part: Features) -> Features:
        widths.append(part["input_ids"].shape)
        return model(part)

    parts = run_by_length(forward, features, tokens_per_forward=100, most_padding=0.2)
    assert len(widths) > 3
    assert all(rows * columns <= 100 for rows, columns in widths)
    torch.testing.assert_close(parts["sentence_embedding"], whole["sentence_embedding"], atol=1e-6, rtol=1e-5)
    mask = features["attention_mask"].bool()
    assert parts["token_embeddings"].shape == whole["token_embeddings"].shape
    torch.testing.assert_close(parts["token_embeddings"][mask], whole["token_embeddings"][mask], atol=2e-6, rtol=1e-5)
    assert parts["token_embeddings"][~mask].abs().max() < 10  # padding: zeros, or whatever the model gave in a part
    assert torch.equal(parts["attention_mask"], features["attention_mask"])
    assert torch.equal(parts["input_ids"], features["input_ids"])


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_one_padded_batch(name: str) -> None:
    model = MODELS[name]().eval()
    features = tokens(model, sentences(9, seed=2))
    weights = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))

    def gradients(run: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        model.zero_grad()
        (run() * weights).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients(lambda: model(dict(features))["sentence_embedding"])
    found = gradients(lambda: run_by_length(model, features, 60)["sentence_embedding"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_one_score_per_row() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS) + 4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, id2label={0: "relevant"})  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    features = tokens(tiny_encoder(), sentences(11, seed=3))
    inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
    parts = run_by_length(lambda part: model(**part), inputs, 40)
    torch.testing.assert_close(parts["logits"], model(**inputs).logits, atol=1e-6, rtol=1e-5)
    assert parts["logits"].shape == (11, 1)


def test_scored_positions_that_attention_does_not_see_are_kept() -> None:
    """ColBERT's query expansion: masked places at the end whose vectors count."""
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])
    expansion = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 0]])
    features = {"input_ids": torch.arange(8).view(2, 4), "attention_mask": mask, "query_expansion_positions": expansion}
    (part,) = split_by_length(features, 100, 0.5)
    assert part.features["input_ids"].tolist() == [[0, 1, 2], [4, 5, 6]]


def test_plain_values_reach_every_part() -> None:
    features = {"attention_mask": torch.ones(4, 2), "modality": "text", "prompt_length": 3, "scale": torch.tensor(2.0)}
    for part in split_by_length(features, 2, 0.0):
        assert (part.features["modality"], part.features["prompt_length"], part.features["scale"]) == ("text", 3, 2)


def test_packed_texts() -> None:
    """As sentence-transformers gives them to flash attention: one row of all tokens, and where each text begins."""
    from transformers import DataCollatorWithFlattening

    texts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10], [11]]
    collate = DataCollatorWithFlattening(return_seq_idx=True, return_flash_attn_kwargs=True, return_position_ids=True)
    features = collate([{"input_ids": text} for text in texts])
    sizes = []

    def forward(part: Features) -> Features:
        ids, starts = part["input_ids"][0].float(), part["cu_seq_lens_q"].tolist()
        sizes.append(len(ids))
        pieces = [ids[start:end] for start, end in pairwise(starts)]
        assert part["position_ids"][0].tolist() == [place for piece in pieces for place in range(len(piece))]
        padded = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True)[..., None]
        return {
            **part,
            "sentence_embedding": torch.stack([piece.sum() for piece in pieces]),
            "token_embeddings": padded,
        }

    joined = run_by_length(forward, features, tokens_per_forward=5)
    assert sizes == [4, 2, 5]
    assert joined["sentence_embedding"].tolist() == [sum(text) for text in texts]
    assert joined["token_embeddings"].squeeze(-1).tolist() == [text + [0] * (4 - len(text)) for text in texts]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=40),
    st.integers(1, 60),
    st.floats(0, 1),
    st.sampled_from(["left", "right"]),
)
def test_parts_keep_to_their_limits(lengths: list[int], limit: int, most_padding: float, side: str) -> None:
    columns = torch.arange(12)
    mask = torch.stack([columns < n if side == "right" else columns >= 12 - n for n in lengths]).long()
    features = {"attention_mask": mask, "place": torch.arange(len(lengths))}
    parts = split_by_length(features, limit, most_padding)
    assert sorted(row for part in parts for row in part.rows.tolist()) == list(range(len(lengths)))
    for part in parts:
        cut = part.features["attention_mask"]
        assert torch.equal(part.features["place"], part.rows)
        assert cut.sum(1).tolist() == [lengths[row] for row in part.rows.tolist()]  # nothing but padding is cut
        if len(cut) > 1:
            assert cut.numel() <= limit
            used = cut.sum(1).clamp(min=1).sum()
            assert cut.numel() - used <= most_padding * cut.numel() + 1e-6
    joined = run_by_length(lambda part: {"place": part["place"] * 2}, features, limit, most_padding)
    assert torch.equal(joined["place"], torch.arange(len(lengths)) * 2)
