"""A few steps of a reranker and of a late-interaction model, as one process does them and as two do.

torchrun … -m tests.integration.ranking_runs reranking OUT      # every process writes OUT/<rank>.pt
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from jointrag.config import RerankerConfig
from tests.rerankers import WORDS, tiny_bert, write
from trainers.parallel import Team
from trainers.reranker import RerankerLearner, make_groups, make_model
from trainers.retrieval.fit import fit
from trainers.retrieval.groups import BatchesByLength
from trainers.retrieval.learner import Learner
from trainers.retrieval.records import Records, open_records


def scored(out: Path) -> Records:
    """Queries with two to five scored texts of different lengths."""
    lines = []
    for i, word in enumerate(WORDS[:12]):
        texts = [" ".join(WORDS[i + j : i + 3 * j + 2]) for j in range(2 + i % 4)]
        lines.append({"query": f"{word} {WORDS[-1]}", "pos": texts, "scores": [float(j) for j in range(len(texts))]})
    return open_records(write(out / "scored.jsonl", lines), cache=out / ".records")


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in learner.model.named_parameters()}


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
    return weights(learner)


if __name__ == "__main__":
    torch.save({"reranking": reranking}[sys.argv[1]](Path(sys.argv[2])), Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
