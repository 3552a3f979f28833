"""Training an embedding model and a reranker of bge-m3's size on a GPU: texts by length, against one padded batch.

    python -m benchmarks.gpu.train_retrieval                       # writes benchmarks/results/gpu/train_retrieval.json
    python -m benchmarks.gpu.train_retrieval --device cpu --quick  # a tiny shape: does the script run?

The model has the published shape of bge-m3 (XLM-RoBERTa large: 24 layers, 1,024 wide, a vocabulary of 250,002) with
random weights, float32 under bfloat16 autocast. Texts are made up; their lengths are spread like those of passages,
some 200 tokens in the middle, cut at 512. A step is what training does: tokenising ahead in a thread, forward, loss,
back, clipping, AdamW. All ways to take a batch share model, optimizer and examples, and take turns:

- by length: parts of like length, as they are by default;
- one batch: all texts padded to the longest of them;
- gradient caching: by length, one part in memory at a time (the embedding model's alone).
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu import command, made_up
from benchmarks.gpu.made_up import NUM_NEGATIVES, MadeUp
from benchmarks.record import Case, compared
from benchmarks.training_meter import Meter, Run
from jointrag.config import PretrainedEncoder, RerankerConfig, RetrieverConfig
from trainers import embedding, reranker
from trainers.retrieval.ahead import Ahead
from trainers.retrieval.batches import BatchesByLength, BatchesWithoutDuplicates
from trainers.retrieval.embedder import Embedder
from trainers.retrieval.learner import Learner

ROUNDS = 3
BY_LENGTH, ONE_BATCH, CACHED = "by length", "one batch", "gradient caching"
WAYS: dict[str, dict[str, Any]] = {
    BY_LENGTH: {},
    ONE_BATCH: {"tokens_per_forward": 2**40, "most_padding": 1.0},
    CACHED: {"gradient_caching": True},
}
NOTES = (
    "Random weights in the shape of bge-m3, float32 under bfloat16 autocast, AdamW; {batch} queries a step, each with "
    "a positive and {negatives} negatives, cut at {length} tokens. Medians of {rounds} rounds of {steps} steps after a "
    'warm-up, in turn. "theirs" is our own step with all texts of a batch padded to the longest. Memory is the rise of '
    "the allocator's peak over model and optimizer."
)


@dataclass(frozen=True)
class Shape:
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    vocabulary: int
    length: int  # tokens of a text
    batch_size: int  # queries
    num_steps: int  # of a round


BGE_M3 = Shape(1024, 24, 16, 4096, 250_002, length=512, batch_size=8, num_steps=6)
TINY = Shape(32, 2, 2, 64, 20_100, length=48, batch_size=4, num_steps=2)


def main() -> int:
    return command.run("train_retrieval", __doc__, _measure)


def _measure(device: str, quick: bool) -> tuple[list[Case], str]:
    shape, rounds = _fitting(BGE_M3, device) if device != "cpu" else TINY, 1 if quick else ROUNDS
    notes = NOTES.format(
        batch=shape.batch_size, negatives=NUM_NEGATIVES, length=shape.length, rounds=rounds, steps=shape.num_steps
    )
    return measure(device, shape, rounds), notes


def measure(device: str, shape: Shape, rounds: int) -> list[Case]:
    """Every case of both kinds of model."""
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder:
        groups = MadeUp(4 * shape.batch_size * shape.num_steps, shape.length)
        write_model(Path(folder), shape, groups)
        for name, (make, order) in KINDS.items():
            learners = make(folder, shape, device)
            cases += _cases(name, compare(learners, groups, order, shape, rounds))
            del learners
            gc.collect()
    return cases


def _fitting(shape: Shape, device: str) -> Shape:
    """Fewer queries a step where the padded batch would not fit: it takes some 60 GiB for 8."""
    gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    batch_size = 8 if gib > 90 else 4 if gib > 45 else 2
    return Shape(**{**vars(shape), "batch_size": batch_size})


# ---- models -------------------------------------------------------------------------------------------------


def write_model(folder: Path, shape: Shape, groups: MadeUp) -> None:
    """An encoder with random weights."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    tokenizer = made_up.tokenizer(groups.texts(), shape.length)
    torch.manual_seed(0)
    XLMRobertaModel(XLMRobertaConfig(**made_up.settings(shape, tokenizer), type_vocab_size=1)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


Learners = dict[str, Learner[Any]]  # by the way they take a batch; one model


def _embedders(folder: str, shape: Shape, device: str) -> Learners:
    config = RetrieverConfig(
        encoder=PretrainedEncoder(name=folder, max_length=shape.length),
        data=Path("made up"),
        num_negatives=NUM_NEGATIVES,
        batch_size=shape.batch_size,
    )
    model = embedding.make_model(config, (), device)
    return {way: Embedder(model, config.model_copy(update=given), "softmax") for way, given in WAYS.items()}


def _rerankers(folder: str, shape: Shape, device: str) -> Learners:
    config = RerankerConfig(
        model=folder, num_negatives=NUM_NEGATIVES, batch_size=shape.batch_size, max_length=shape.length
    )
    model = reranker.make_model(config, device)
    ways = {way: given for way, given in WAYS.items() if way != CACHED}
    return {way: reranker.RerankerLearner(model, config.model_copy(update=given)) for way, given in ways.items()}


Make = Callable[[str, Shape, str], Learners]
KINDS: dict[str, tuple[Make, type[BatchesWithoutDuplicates] | type[BatchesByLength]]] = {
    "embedding": (_embedders, BatchesWithoutDuplicates),
    "reranker": (_rerankers, BatchesByLength),
}


# ---- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A round."""

    run: Run
    gib: float  # rise of the allocator's peak; 0 on a CPU


def compare(
    learners: Learners,
    groups: MadeUp,
    order: type[BatchesWithoutDuplicates] | type[BatchesByLength],
    shape: Shape,
    rounds: int,
) -> dict[str, list[Seen]]:
    """Rounds of each way, in turn, without the first one."""
    model = next(iter(learners.values())).model
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=model.device.type == "cuda")
    found: dict[str, list[Seen]] = {way: [] for way in learners}
    for number in range(rounds + 1):
        for way, learner in learners.items():
            seen = _round(learner, optimizer, groups, order, shape, epoch=number)
            print(f"round {number} of {rounds}, {way}: {seen.run.samples_per_s:.3g} queries/s", file=sys.stderr)
            if number:
                found[way].append(seen)
    return found


def _round(
    learner: Learner[Any],
    optimizer: torch.optim.Optimizer,
    groups: MadeUp,
    order: type[BatchesWithoutDuplicates] | type[BatchesByLength],
    shape: Shape,
    epoch: int,
) -> Seen:
    device = learner.model.device
    on_gpu = device.type == "cuda"
    before = 0
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    ahead = Ahead(learner.collate, groups, order(groups, batch_size=shape.batch_size, seed=0))
    try:
        with Meter(learner.model) as meter:
            for step in range(shape.num_steps):
                batch = _moved(ahead[epoch, step], device)
                with torch.autocast("cuda", torch.bfloat16) if on_gpu else contextlib.nullcontext():
                    loss = learner(**batch)["loss"]
                loss.backward()
                torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
                meter.losses.append(loss.detach())
    finally:
        ahead.close()
    rise = (torch.cuda.max_memory_allocated(device) - before) / 2**30 if on_gpu else 0.0
    return Seen(meter.run(shape.batch_size), rise)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(inner, device) for name, inner in value.items()}
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value


def _cases(name: str, found: dict[str, list[Seen]]) -> list[Case]:
    """Each way against the padded batch."""

    def case(way: str, what: str, unit: str, of: Callable[[Seen], float], target: str = "") -> Case:
        mine, other = (median(of(seen) for seen in found[side]) for side in (way, ONE_BATCH))
        return compared(f"{name}, {way}: {what}", mine, other, unit, target, _detail(found, (way, ONE_BATCH)))

    cases: list[Case] = []
    for way in found:
        if way == ONE_BATCH:
            continue
        cases.append(case(way, "speed", "queries/s", lambda seen: seen.run.samples_per_s))
        if way != CACHED:  # which reads each token twice
            cases.append(case(way, "tokens", "tokens/s", lambda seen: seen.run.tokens_per_s))
        cases.append(case(way, "padding", "% of places", lambda seen: 100 * seen.run.padding))
        if found[way][0].gib:
            cases.append(case(way, "peak memory", "GiB", lambda seen: seen.gib))
    return cases


def _detail(found: dict[str, list[Seen]], ways: Sequence[str]) -> dict[str, Any]:
    return {way: [round(seen.run.samples_per_s, 2) for seen in found[way]] for way in ways}


if __name__ == "__main__":
    raise SystemExit(main())
