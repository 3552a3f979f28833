"""The late-interaction model (ColBERT): a vector for each token, and MaxSim between a query's and a text's.

    train(LateInteractionConfig(model="BAAI/bge-m3"), data=Path("train.jsonl"), seed=0, out=Path("models/colbert"))

writes out/model, which sentence-transformers' MultiVectorEncoder loads. Any encoder will do to start from: it gets a
linear layer to `dim` dimensions, an orthogonal map, so that MaxSim begins with what the encoder's token vectors already
say. The loop is in trainers/retrieval/fit.py. Training that was interrupted goes on when it is started again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.util import load_file_path
from sentence_transformers.util.similarity import maxsim, maxsim_pairwise
from torch import Tensor, nn

from jointrag.by_length import Features
from jointrag.config import LateInteractionConfig
from jointrag.encoders import Encoder, Kind, no_bars_in_logs
from jointrag.tracking import NoTracker, Tracker
from trainers.parallel import Team
from trainers.retrieval.backbone import check_length, check_padding, load, weights
from trainers.retrieval.embedder import VECTOR, targets_of
from trainers.retrieval.groups import BatchesByLength, BatchesWithoutDuplicates, Group, Groups
from trainers.retrieval.held_out import fit_and_measure, open_split
from trainers.retrieval.learner import Batch, Learner, Outputs
from trainers.retrieval.losses import guided, in_batch, same_text
from trainers.retrieval.ranking_losses import group, kl
from trainers.retrieval.records import Need, Records

logger = logging.getLogger(__name__)
NAME = "late_interaction"
_TOKENS, _MASK = "token_embeddings", "attention_mask"
Loss = Literal["in_batch", "kl"]


def train(
    config: LateInteractionConfig,
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

    Returns late_interaction/loss, and on the questions of `dev` (or config.dev, or those held out of the data)
    late_interaction/ndcg@10, mrr@10 and map; the same before training as late_interaction/start_…. Raises ValueError,
    before training, for what could not work.
    """
    from transformers import set_seed

    Team.join(device)  # before a model is loaded
    no_bars_in_logs()
    needs: frozenset[Need] = frozenset({"scores"}) if config.loss == "kl" else frozenset()
    records, held = open_split(config, NAME, data, dev, negatives, seed=seed, out=out, needs=needs)
    loss: Loss = "kl" if config.loss == "kl" or (config.loss == "auto" and records.scores == "all") else "in_batch"
    groups = make_groups(config, loss, records, seed)
    logger.info("%s · %d groups, loss %s", records.report, len(groups), loss)
    set_seed(seed)
    guide = None
    if config.guide is not None and loss == "in_batch":
        guide = load(
            SentenceTransformer,
            config.guide,
            f"{NAME}.guide",
            device=device,
            trust_remote_code=config.trust_remote_code,
        )
    return fit_and_measure(
        LateInteractionLearner(make_model(config, device), config, loss, guide),
        groups,
        held,
        name=NAME,
        model_name=config.model,
        seed=seed,
        out=out,
        tracker=tracker,
        order=BatchesByLength if loss == "kl" else BatchesWithoutDuplicates,
    )


def make_groups(config: LateInteractionConfig, loss: Loss, records: Records, seed: int) -> Groups:
    """A positive with some negatives; for kl all texts of a query. Raises ValueError for data that has none."""
    if loss == "kl":
        return Groups(records, mode="all_texts", seed=seed, labels="scores", max_texts=config.max_texts)
    return Groups(
        records,
        mode="one_positive",
        seed=seed,
        labels="binary",
        num_negatives=config.num_negatives,
        repeat_negatives=config.repeat_negatives,
    )


class LateInteractionLearner(Learner[Group]):
    """MaxSim of each query with every text of the batch, or with its own."""

    keeps = (_TOKENS, _MASK, VECTOR)  # the last one is the guide's
    settings: LateInteractionConfig

    def __init__(
        self,
        model: MultiVectorEncoder,
        config: LateInteractionConfig,
        loss: Loss,
        guide: SentenceTransformer | None = None,
    ) -> None:
        super().__init__(model, config)
        self._in_batch = loss == "in_batch"
        self._guide = [guide.eval()] if guide is not None else []  # in a list: it is no part of what is trained

    def collate(self, examples: Sequence[Group]) -> Batch:
        queries, texts = [group.query for group in examples], [text for group in examples for text in group.texts]
        features = {"query": tokens(self.model, queries, "query"), "text": tokens(self.model, texts, "passage")}
        for guide in self._guide:
            features["guide query"] = tokens(guide, queries, "query")
            features["guide text"] = tokens(guide, texts, "passage")
        return {"features": features, "targets": targets_of(examples, queries, texts)}

    def run(self, name: str, features: Features) -> Mapping[str, Any]:
        if name.startswith("guide"):
            with torch.no_grad():
                return {VECTOR: self._guide[0](features)[VECTOR]}
        outputs = self.model(features, task="query" if name == "query" else "document")
        return {_TOKENS: outputs[_TOKENS], _MASK: outputs[_MASK].bool()}

    def _kept(self, outputs: Mapping[str, Any]) -> Outputs:
        return {name: outputs[name] for name in self.keeps if name in outputs}

    def loss(self, outputs: dict[str, Outputs], targets: dict[str, Tensor]) -> Tensor:
        sizes = targets["sizes"]
        queries, texts = outputs["query"], outputs["text"]
        if not self._in_batch:
            owner = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
            scores = maxsim_pairwise(
                queries[_TOKENS][owner], texts[_TOKENS], a_mask=queries[_MASK][owner], b_mask=texts[_MASK]
            )
            grouped = group(scores / self.settings.temperature, targets["labels"], sizes)
            return kl(grouped, self.settings.score_temperature)
        positive = sizes.cumsum(0) - sizes  # the first of each query's texts
        masked = same_text(targets["query_ids"], targets["text_ids"], positive)
        if self._guide:
            masked |= guided(outputs["guide query"][VECTOR], outputs["guide text"][VECTOR], positive)
        scores = maxsim(queries[_TOKENS], texts[_TOKENS], a_mask=queries[_MASK], b_mask=texts[_MASK])
        return in_batch(scores / self.settings.temperature, positive, masked)


def tokens(model: Any, texts: Sequence[str], kind: Kind) -> Features:
    """Texts as the model takes them, with its own prompt for their kind."""
    prompt = Encoder(model).prompt(kind) or None
    return dict(model.preprocess(list(texts), prompt=prompt, task="query" if kind == "query" else "document"))


# ---- model -----------------------------------------------------------------------------------------------------------


def make_model(config: LateInteractionConfig, device: str = "auto") -> MultiVectorEncoder:
    """The model to start from. Raises ValueError for one that cannot be loaded, has another dimension of its own, or is
    too short."""
    model = load(
        MultiVectorEncoder,
        config.model,
        f"{NAME}.model",
        device=device,
        trust_remote_code=config.trust_remote_code,
        model_kwargs=weights(config),
    )
    check_padding(model, config.model)
    _project(model, config)
    transformer = model[0]
    assert isinstance(transformer, Transformer)
    for setting, length in (("max_query_length", config.max_query_length), ("max_length", config.max_length)):
        check_length(model, length, f"{NAME}.{setting}", config.model)
    if config.max_query_length is not None:
        transformer.query_length = config.max_query_length
    if config.max_length is not None:
        transformer.document_length = config.max_length
    if config.query_expansion is not None:
        transformer.query_length = None
        transformer.query_expansion = {"strategy": "fixed", "length": config.query_expansion}
    return model


def _project(model: MultiVectorEncoder, config: LateInteractionConfig) -> None:
    """Give the model the layer to config.dim dimensions, where sentence-transformers has just put one of 128."""
    layers = [module for module in model if isinstance(module, Dense)]
    if not layers or _has_own_layer(config.model):
        own = model.get_embedding_dimension()
        if "dim" in config.model_fields_set and own != config.dim:
            raise ValueError(
                f"{NAME}.dim={config.dim}, but {config.model} has {own} dimensions of its own; leave it out"
            )
        return
    new = Dense(
        layers[-1].in_features,
        config.dim,
        bias=False,
        activation_function=nn.Identity(),
        module_input_name=_TOKENS,
        module_output_name=_TOKENS,
    )
    nn.init.orthogonal_(new.linear.weight)
    place = next(i for i, module in enumerate(model) if module is layers[-1])
    model[place] = new.to(model.device, next(layers[-1].parameters()).dtype)


def _has_own_layer(name: str) -> bool:
    """Whether a trained layer follows the transformer: late-interaction models have one, and some embedding models."""
    if (modules := load_file_path(name, "modules.json")) is not None:
        return any(module["type"].endswith("Dense") for module in json.loads(Path(modules).read_text()))
    config = load_file_path(name, "config.json")
    heads = (json.loads(Path(config).read_text()).get("architectures") or []) if config is not None else []
    return "HF_ColBERT" in heads
