"""Forward passes that take texts of like length together: the same outputs as one padded batch, without its padding.

    outputs = run_by_length(model, features, tokens_per_forward=16_384, most_padding=0.1)
    outputs["sentence_embedding"]      # [rows, dim], in the order of the features' rows

Texts that were tokenised together, or are in one batch as each other's negatives, differ in length. But they can be run
by length: rows are sorted, cut into parts, and each part is trimmed to its own longest row. With an attention mask a
row's output does not depend on its neighbours, so this is exact; with padding on the left it is for models whose
positions are relative (rotary), as those that pad there are. Only dropout draws other masks, of the same distribution.

Where the model packs its texts (sentence-transformers does with flash attention), there is no padding to begin with: a
part is then some texts in a row, as many as `tokens_per_forward` lets in.

Training, encoding a corpus and rankers all say by `num_together` what goes into one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Features = dict[str, Any]  # what a sentence-transformers model takes: tensors [rows, …], and a few plain values
Forward = Callable[[Features], Mapping[str, Any]]
_PACKED = "cu_seq_lens_q"  # the feature of a packed batch that says where each text begins
_PER_TOKEN = ("token_embeddings", "attention_mask", "input_ids")  # outputs [rows, tokens, …]; others are per row


@dataclass(frozen=True)
class Part:
    """Some rows of a batch, without the columns that none of them needs."""

    rows: Tensor  # [rows of the part]
    first: int  # the batch's column that is the part's first
    features: Features


def run_by_length(
    forward: Forward, features: Features, tokens_per_forward: int, most_padding: float = 0.1
) -> dict[str, Tensor]:
    """`forward` of the whole batch, part by part. Of its outputs, every tensor that has a row (and, for
    token_embeddings, attention_mask and input_ids, a column) for each of the batch's is joined; others are left out.
    """
    parts = split_by_length(features, tokens_per_forward, most_padding)
    return join([forward(part.features) for part in parts], parts, features)


def split_by_length(
    features: Features, tokens_per_forward: int, most_padding: float, most_rows: int | None = None
) -> list[Part]:
    """The parts, longest texts first: what does not fit into memory fails at once.

    A part has at most `tokens_per_forward` places (or is one row), at most the share `most_padding` of padding, and at
    most `most_rows` rows, which packed texts are not limited by.
    """
    if _PACKED in features:
        return _split_packed(features, tokens_per_forward)
    used = _used_columns(features)  # [rows, columns]
    rows, columns = used.shape
    counts = used.sum(1)
    order = torch.argsort(counts, descending=True, stable=True)
    # where a row's tokens begin and end: they stand side by side, padding is left or right of them
    begins = torch.where(counts > 0, used.int().argmax(1), columns - 1)
    ends = torch.where(counts > 0, columns - used.flip(1).int().argmax(1), 1)
    lengths = (ends - begins).clamp(min=1)[order].tolist()
    parts, start = [], 0
    while start < rows:
        coming = lengths[start : start + (most_rows or rows)]
        chosen = order[start : start + num_together(coming, tokens_per_forward, most_padding)]
        start += len(chosen)
        first = int(begins[chosen].min())
        parts.append(_part(features, chosen, first, max(first + 1, int(ends[chosen].max())), (rows, columns)))
    return parts


def num_together(lengths: Sequence[int], tokens_per_forward: int, most_padding: float, worth: int = 0) -> int:
    """How many of the first rows of these lengths, which fall, go into one forward pass: one, and more as long as they
    have at most `tokens_per_forward` places, and the share `most_padding` of padding (or `worth` places in all)."""
    width, tokens = lengths[0], 0
    for count, length in enumerate(lengths):
        places, tokens = (count + 1) * width, tokens + length
        too_much_padding = places > worth and places - tokens > most_padding * places
        if count and (places > tokens_per_forward or too_much_padding):
            return count
    return len(lengths)


def join(outputs: Sequence[Mapping[str, Any]], parts: Sequence[Part], features: Features) -> dict[str, Tensor]:
    """The outputs of all parts as those of one batch."""
    back = torch.argsort(torch.cat([part.rows for part in parts]))
    joined: dict[str, Tensor] = {}
    for name, sample in outputs[0].items():
        if not isinstance(sample, Tensor) or sample.ndim == 0:
            continue
        pieces = [output[name] for output in outputs]
        if any(len(piece) != len(part.rows) for piece, part in zip(pieces, parts, strict=True)):
            continue
        if name in _PER_TOKEN:
            packed = _PACKED in features
            columns = max(piece.shape[1] for piece in pieces) if packed else features["attention_mask"].shape[1]
            pieces = [_widen(piece, part.first, columns) for piece, part in zip(pieces, parts, strict=True)]
        if len({piece.shape[1:] for piece in pieces}) == 1:
            joined[name] = torch.cat(pieces)[back.to(sample.device)]
    return joined


def _used_columns(features: Features) -> Tensor:
    """Which places hold a token, bool [rows, columns], on the CPU."""
    used = features["attention_mask"].bool()
    if (
        expanded := features.get("query_expansion_positions")
    ) is not None:  # masked for attention, yet scored (ColBERT)
        used = used | expanded.bool()
    return used.cpu()


def _split_packed(features: Features, tokens_per_forward: int) -> list[Part]:
    from sentence_transformers.base.losses.gradcache import _create_minibatch, _minibatch_ranges

    ranges = _minibatch_ranges(features, 1, tokens_per_forward)
    return [Part(torch.arange(start, end), 0, _create_minibatch(features, start, end)) for start, end in ranges]


def _part(features: Features, rows: Tensor, first: int, last: int, shape: tuple[int, int]) -> Part:
    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != shape[0]:
            return value
        value = value[rows.to(value.device)]
        return value[:, first:last] if value.ndim > 1 and value.shape[1] == shape[1] else value

    return Part(rows, first, {name: cut(value) for name, value in features.items()})


def _widen(piece: Tensor, first: int, columns: int) -> Tensor:
    """A part's [rows, its columns, …] at its place among `columns`, zeros around."""
    after = columns - first - piece.shape[1]
    around = (0, 0) * (piece.ndim - 2) + (first, after)
    return torch.nn.functional.pad(piece, around)
