"""A small training of an embedding model, as tests run it: here, killed in a process of its own, in two processes.

python -m tests.integration.retrieval_runs killed OUT MOMENT      # kills itself (SIGKILL) at MOMENT
torchrun … -m tests.integration.retrieval_runs shared OUT         # every process writes OUT/<rank>.pt
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jointrag.config import RetrieverConfig, ScratchEncoder
from jointrag.tracking import NoTracker, Tracker
from tests.tiny_retrievers import sentences, tiny_encoder
from trainers import embedding
from trainers.parallel import Team
from trainers.retrieval.embedder import Embedder
from trainers.retrieval.fit import Evaluate, FitResult, fit
from trainers.retrieval.groups import Groups
from trainers.retrieval.records import Record, open_records, write_records
from trainers.retrieval.trainer import FitTrainer

CONFIG = RetrieverConfig(
    data=Path("triplets.jsonl"),
    num_epochs=2.5,
    batch_size=6,
    learning_rate=3e-3,
    num_negatives=2,
    tokens_per_forward=60,
    checkpoint_every=4,
)


def records(count: int = 40) -> list[Record]:
    """A question is made of words of its text; negatives share some of them."""
    rng = random.Random(5)
    texts = sentences(count, seed=4, longest=20)
    made = []
    for i, text in enumerate(texts):
        words = text.split()
        question = " ".join(rng.sample(words, min(3, len(words)))) + f" {i}"
        others = [f"{' '.join(rng.sample(words, len(words) // 2))} {rng.choice(texts)} {j}" for j in range(4)]
        made.append(Record(question, (text,), tuple(others)))
    return made


def triplets(out: Path, config: RetrieverConfig = CONFIG) -> Groups:
    path = out / "triplets.jsonl"
    if Team.join("cpu").is_first:
        write_records(path, records())
    Team.join("cpu").wait()
    opened = open_records(path, cache=out / ".records")
    return Groups(opened, mode="one_positive", seed=0, num_negatives=config.num_negatives)


def train(
    out: Path,
    config: RetrieverConfig = CONFIG,
    tracker: Tracker = NoTracker(),
    evaluate: Evaluate | None = None,
    dropout: float = 0.1,
) -> tuple[dict[str, torch.Tensor], FitResult]:
    """The weights after training, and its result."""
    learner = Embedder(tiny_encoder(dropout=dropout), config, "softmax")
    result = fit(learner, triplets(out, config), config, seed=0, out=out, tracker=tracker, evaluate=evaluate)
    return {name: weight.detach().clone() for name, weight in learner.state_dict().items()}, result


# ---- killed ----------------------------------------------------------------------------------------------------------


def _die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _KillAt(NoTracker):
    def __init__(self, step: int) -> None:
        self.step = step

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if step == self.step:
            _die()


def killed(out: Path, moment: str) -> None:
    """Train until `moment`: "step N"; "epoch to step N" (the checkpoint before is of an epoch's end); "in checkpoint N"
    (its weights are written, the rest is not); "between checkpoints N" (it is written, and does not yet count)."""
    kind, number = moment.rsplit(" ", 1)
    if kind == "step":
        train(out, tracker=_KillAt(int(number)))
    if kind == "epoch to step":
        train(out, CONFIG.model_copy(update={"checkpoint_every": 7}), tracker=_KillAt(int(number)))
    method = {"in checkpoint": "_save_optimizer_and_scheduler", "between checkpoints": "_save_rng_state"}[kind]
    original: Callable[..., None] = getattr(FitTrainer, method)

    def save(self: FitTrainer, folder: str) -> None:
        if kind == "between checkpoints":
            original(self, folder)
        if self.state.global_step == int(number):
            _die()
        original(self, folder)

    setattr(FitTrainer, method, save)
    train(out)


# ---- several processes -----------------------------------------------------------------------------------------------


def shared(out: Path) -> Any:
    """The same training with gradient caching and without; batches of 6 whatever the number of processes."""
    found = {}
    for caching in (False, True):
        config = CONFIG.model_copy(update={"gradient_caching": caching})
        folder = out / f"{Team.join('cpu').size} {caching}"
        folder.mkdir(exist_ok=True)
        weights, result = train(folder, config, dropout=0.0, evaluate=lambda: {"rank": Team.join("cpu").rank + 1.0})
        found[caching] = {"weights": weights, "loss": result.loss, "metrics": result.metrics, "steps": result.steps}
    found["stage"] = _stage(out / f"{Team.join('cpu').size} stage")
    return found


def _stage(out: Path) -> dict[str, float]:
    """Stage 2 on a training file, from a scratch encoder."""
    out.mkdir(exist_ok=True)
    path = out / "data.jsonl"
    if Team.join("cpu").is_first:
        write_records(path, records())
    Team.join("cpu").wait()
    encoder = ScratchEncoder(hidden_size=32, num_layers=1, num_heads=2, max_length=32)
    config = CONFIG.model_copy(update={"data": path, "encoder": encoder, "held_out": 0.3, "max_pairs": 24})
    return embedding.train(config, prepared=None, seed=1, out=out / "run", device="cpu")


if __name__ == "__main__":
    if sys.argv[1] == "killed":
        killed(Path(sys.argv[2]), sys.argv[3])
    else:
        torch.save(shared(Path(sys.argv[2])), Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
        Team.leave()
