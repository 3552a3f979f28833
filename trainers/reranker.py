"""The reranker: reads query and text together and gives one score. Any encoder, cross-encoder or decoder to start from.

    train(RerankerConfig(model="BAAI/bge-reranker-base"), data=Path("train.jsonl"), seed=0, out=Path("models/reranker"))

writes out/model, which sentence-transformers' CrossEncoder loads and scores alike. Losses are in
trainers/retrieval/ranking_losses.py, the loop in trainers/retrieval/fit.py, the format of decoders in
trainers/retrieval/decoder_format.py. Training that was interrupted goes on when it is started again.

Differences to RAG-Retrieval, whose data and pointwise losses these are: texts of like length go through the model
together, padded to their own longest; decoders are scored by the word they would say next in place of a new head; a
query's texts can be compared with each other; and the result is measured before and after.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor

from jointrag.by_length import Features
from jointrag.config import DecoderFormat, RerankerConfig
from jointrag.encoders import no_bars_in_logs
from jointrag.tracking import NoTracker, Tracker
from trainers.parallel import Team
from trainers.retrieval.backbone import check_length, check_padding, load, weights
from trainers.retrieval.decoder_format import as_reranker, check_room, is_bare_decoder, load_decoder
from trainers.retrieval.groups import BatchesByLength, Group, Groups
from trainers.retrieval.held_out import fit_and_measure, open_split
from trainers.retrieval.learner import Batch, Learner, Outputs
from trainers.retrieval.ranking_losses import LOSSES, Grouped, group, kl
from trainers.retrieval.records import Need, Records

logger = logging.getLogger(__name__)
NAME = "reranker"
_OF_A_TEACHER = ("kl", "margin_mse")
_HIGHEST_GRADE = 20  # lambda: nDCG's gain is 2^grade


def train(
    config: RerankerConfig,
    *,
    seed: int,
    out: Path,
    data: Path | Sequence[Path] | None = None,
    dev: Path | None = None,
    negatives: Path | None = None,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Train on `data` (or config.data, or what was mined into the folder `negatives`) and write out/model.

    Returns reranker/loss, and on the questions of `dev` (or config.dev, or those held out of the data) ndcg@10, mrr@10
    and map as reranker/…, before training as reranker/start_…. Raises ValueError, before training, for what could not
    work: data that does not fit the loss, a length beyond the model's, an answer that is not a token of a decoder.
    """
    from transformers import set_seed

    Team.join(device)  # before a model is loaded
    no_bars_in_logs()
    needs: frozenset[Need] = frozenset({"scores"}) if config.loss in _OF_A_TEACHER else frozenset()
    records, held = open_split(config, NAME, data, dev, negatives, seed=seed, out=out, needs=needs)
    groups = make_groups(config, records, seed)
    logger.info("%s · %d groups, loss %s", records.report, len(groups), config.loss)
    set_seed(seed)
    return fit_and_measure(
        RerankerLearner(make_model(config, device), config),
        groups,
        held,
        name=NAME,
        model_name=config.model,
        seed=seed,
        out=out,
        tracker=tracker,
        order=BatchesByLength,
    )


class RerankerLearner(Learner[Group]):
    """Scores of all pairs of a batch, compared within each query's."""

    keeps = ("scores",)
    settings: RerankerConfig

    def __init__(self, model: CrossEncoder, config: RerankerConfig) -> None:
        super().__init__(model, config)
        self._loss: Callable[[Grouped], Tensor] = LOSSES[config.loss]
        if config.loss == "kl":
            self._loss = partial(kl, temperature=config.score_temperature)

    def collate(self, examples: Sequence[Group]) -> Batch:
        pairs = [(example.query, text) for example in examples for text in example.texts]
        prompt = self.model.prompts.get(self.model.default_prompt_name)  # as `predict` does it
        targets = {
            "sizes": torch.tensor([len(example.texts) for example in examples]),
            "labels": torch.tensor([label for example in examples for label in example.labels], dtype=torch.float32),
        }
        return {"features": {"pair": dict(self.model.preprocess(pairs, prompt=prompt))}, "targets": targets}

    def run(self, name: str, features: Features) -> Mapping[str, Any]:
        return self._kept(self.model(features))  # not a decoder's logits of its whole vocabulary

    def loss(self, outputs: dict[str, Outputs], targets: dict[str, Tensor]) -> Tensor:
        logits = outputs["pair"]["scores"].squeeze(-1)
        return self._loss(group(logits, targets["labels"], targets["sizes"]))


# ---- model -----------------------------------------------------------------------------------------------------------


def make_model(config: RerankerConfig, device: str = "auto") -> CrossEncoder:
    """The model to start from. A new head takes torch's current random state.

    Raises ValueError for one that cannot be loaded, gives more than one score, or has a format of its own while
    config.decoder asks for another.
    """
    loading = {"device": device, "trust_remote_code": config.trust_remote_code}
    if load(is_bare_decoder, config.model, f"{NAME}.model", **loading):
        decoder = load(load_decoder, config.model, f"{NAME}.model", model_kwargs=weights(config), **loading)
        model = as_reranker(decoder, config.decoder or DecoderFormat())
    elif config.decoder is not None:
        raise ValueError(
            f"{NAME}.decoder is for causal language models that are no rerankers yet, and {config.model} is none; "
            "leave it out"
        )
    else:
        model = load(CrossEncoder, config.model, f"{NAME}.model", model_kwargs=weights(config), **loading)
    if model.num_labels != 1:
        raise ValueError(
            f"{NAME}.model={config.model!r} gives {model.num_labels} scores for a pair, and a reranker gives one; "
            "start from the model that it was made of"
        )
    check_padding(model, config.model)
    check_length(model, config.max_length, f"{NAME}.max_length", config.model)
    if config.max_length is not None:
        model.max_seq_length = config.max_length
    if model.max_seq_length is not None:
        check_room(model.tokenizer, model.max_seq_length)
    return model


# ---- data ------------------------------------------------------------------------------------------------------------


def make_groups(config: RerankerConfig, records: Records, seed: int) -> Groups:
    """A query's texts with their labels: all that have a score, or a positive with some negatives.

    Raises ValueError for data that the loss cannot learn from.
    """
    labels = config.labels
    if labels == "auto":
        by_scores = records.scores == "all" or (records.scores == "positives" and config.min_label is not None)
        labels = "scores" if by_scores else "binary"
    if labels == "binary":
        if config.loss in _OF_A_TEACHER:
            raise ValueError(f"loss={config.loss} learns from scores; leave labels=auto, or take another loss")
        return Groups(
            records,
            mode="one_positive",
            seed=seed,
            labels="binary",
            num_negatives=config.num_negatives,
            repeat_negatives=config.repeat_negatives,
        )
    groups = Groups(
        records,
        mode="all_texts",
        seed=seed,
        labels="scores",
        max_texts=config.max_texts,
        min_label=config.min_label,
        max_label=config.max_label,
    )
    _check_labels(config, records)
    return groups


def _check_labels(config: RerankerConfig, records: Records) -> None:
    """Whether the loss can take these scores, and has something to compare."""
    scaled = config.min_label is not None
    lowest, highest = (0.0, 1.0) if scaled else (records.report.lowest_score, records.report.highest_score)
    assert lowest is not None and highest is not None
    limits = {"point_ce": (0, 1), "point_mse": (0, 1), "listwise": (0, None), "lambda": (0, _HIGHEST_GRADE)}
    least, most = limits.get(config.loss, (None, None))
    if (least is not None and lowest < least) or (most is not None and highest > most):
        wanted = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise ValueError(
            f"{records.where(0)}: loss={config.loss} wants labels {wanted}, and the file's scores are {lowest:g} … "
            f"{highest:g}; set min_label and max_label to have them scaled to 0 … 1"
        )
    if config.loss not in ("point_ce", "point_mse") and not ((records.num_positives + records.num_negatives) > 1).any():
        raise ValueError(
            f"{records.where(0)}: no query has two texts, and loss={config.loss} compares a query's texts; put all "
            "texts of a query on one line, or train with point_ce"
        )
