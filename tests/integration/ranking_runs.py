"""A few steps of a reranker and of a late-interaction model, as one process does them and as two do.

torchrun … -m tests.integration.ranking_runs reranking OUT      # every process writes OUT/<rank>.pt
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jointrag.config import LateInteractionConfig, RerankerConfig
from tests.word_rankers import WORDS, tiny_bert, write
from trainers.late_interaction import LateInteractionLearner, Loss
from trainers.late_interaction import make_groups as make_late_groups
from trainers.late_interaction import make_model as make_late_interaction
from trainers.parallel import Team
from trainers.reranker import RerankerLearner, make_groups, make_model
from trainers.retrieval.fit import fit
from trainers.retrieval.groups import BatchesByLength, BatchesWithoutDuplicates
from trainers.retrieval.records import Records, open_records


def scored(out: Path) -> Records:
    """Queries with two to five scored texts of different lengths."""
    lines = []
    for i, word in enumerate(WORDS[:12]):
        texts = [" ".join(WORDS[i + j : i + 3 * j + 2]) for j in range(2 + i % 4)]
        lines.append({"query": f"{word} {WORDS[-1]}", "pos": texts, "scores": [float(j) for j in range(len(texts))]})
    if Team.join("cpu").is_first:
        write(out / "scored.jsonl", lines)
    Team.join("cpu").wait()
    return open_records(out / "scored.jsonl", cache=out / ".records")


def _folder(out: Path) -> Path:
    """This number of processes' own, with a model to start from."""
    team = Team.join("cpu")
    folder = out / str(team.size)
    if team.is_first:
        folder.mkdir(parents=True)
        tiny_bert(folder / "start")
    team.wait()
    return folder


def reranking(out: Path) -> dict[str, Tensor]:
    """Trained weights."""
    folder = _folder(out)
    config = RerankerConfig(model=str(folder / "start"), loss="lambda", batch_size=4, learning_rate=1e-3, num_epochs=2)
    torch.manual_seed(0)
    learner = RerankerLearner(make_model(config, "cpu"), config)
    groups = make_groups(config, scored(folder), seed=0)
    fit(learner, groups, config, seed=0, out=folder, name="reranker", order=BatchesByLength)
    return {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}


def late_interaction(out: Path) -> dict[str, Tensor]:
    """Weights after training on in-batch negatives, then on scores."""
    folder = _folder(out)
    given = {"model": str(folder / "start"), "dim": 16, "batch_size": 4, "learning_rate": 1e-3, "num_epochs": 1}
    config = LateInteractionConfig.model_validate(given)
    torch.manual_seed(0)
    model = make_late_interaction(config, "cpu")
    pairs = [{"query": f"{word} deso", "pos": [" ".join(WORDS[: i + 1])]} for i, word in enumerate(WORDS[:12])]
    if Team.join("cpu").is_first:
        write(folder / "pairs.jsonl", pairs)
    Team.join("cpu").wait()
    records = {"in_batch": open_records(folder / "pairs.jsonl", cache=folder / ".records"), "kl": scored(folder)}
    runs: list[tuple[Loss, Any]] = [("in_batch", BatchesWithoutDuplicates), ("kl", BatchesByLength)]
    for loss, order in runs:
        learner = LateInteractionLearner(model, config, loss)
        groups = make_late_groups(config, loss, records[loss], seed=0)
        fit(learner, groups, config, seed=0, out=folder / loss, name=loss, order=order)
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


RUNS = {"reranking": reranking, "late_interaction": late_interaction}

if __name__ == "__main__":
    torch.save(RUNS[sys.argv[1]](Path(sys.argv[2])), Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
    Team.leave()
