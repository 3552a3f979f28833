"""Ranking with models of bge-reranker-v2-m3's and bge-reranker-v2-gemma's size on a GPU: batches by length, or padded.

    python -m benchmarks.gpu.rank                       # writes benchmarks/results/gpu/rank.json
    python -m benchmarks.gpu.rank --device cpu --quick  # tiny shapes: does the script run?

Both models have random weights in bfloat16: XLM-RoBERTa large (24 layers, 1,024 wide) and a Gemma of 2 billion (18
layers, 2,048 wide). Queries and texts are made up; their lengths are spread like those of passages, cut at 512 tokens.
"theirs" is RAG-Retrieval's loop around the same model: pairs in the order they come, tokenised when their turn comes,
256 at a time for the encoder and 16 for the decoder, padded to the longest.

Utilisation is what the tokens alone ask for, 2 × weights in linear layers per token and 4 × hidden × layers × length²
per pair for attention (half of it where it is causal), over the device's dense bfloat16 peak. Padding does not count.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu import command, made_up
from benchmarks.gpu.made_up import NUM_NEGATIVES, MadeUp
from benchmarks.record import Case, alone, compared
from jointrag import Reranker
from jointrag.rankers.local import LocalRanker
from jointrag.rankers.writing import Limits

ROUNDS = 3
NOTES = (
    "Random weights, bfloat16, {pairs} pairs cut at {length} tokens; medians of {rounds} rounds, sides in turn. "
    '"theirs" pads pairs in the order they come. {peak}'
)
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Shape:
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocabulary: int
    batch_size: int  # of the padded loop
    num_pairs: int
    length: int = 512
    causal: bool = False


M3 = Shape(1024, 24, 16, 16, 64, 4096, 250_002, batch_size=256, num_pairs=4096)
GEMMA_2B = Shape(2048, 18, 8, 1, 256, 16384, 256_000, batch_size=16, num_pairs=1024, causal=True)
TINY = Shape(32, 2, 2, 2, 16, 64, 20_100, batch_size=16, num_pairs=64, length=64)
TINY_CAUSAL = Shape(32, 2, 2, 1, 16, 64, 20_100, batch_size=8, num_pairs=64, length=96, causal=True)


def main() -> int:
    return command.run("rank", __doc__, _measure)


def _measure(device: str, quick: bool) -> tuple[list[Case], str]:
    on_gpu, rounds = device != "cpu", 1 if quick else ROUNDS
    shapes = {"cross-encoder": M3, "decoder": GEMMA_2B} if on_gpu else {"cross-encoder": TINY, "decoder": TINY_CAUSAL}
    peak = command.peak_flops(device)
    cases = [case for name, shape in shapes.items() for case in measure(name, shape, device, rounds, peak)]
    pairs = " and ".join(str(shape.num_pairs) for shape in shapes.values())
    lengths = " and ".join(str(shape.length) for shape in shapes.values())
    return cases, NOTES.format(pairs=pairs, length=lengths, rounds=rounds, peak=command.about_peak(device))


def measure(name: str, shape: Shape, device: str, rounds: int, peak: float | None) -> list[Case]:
    pairs = MadeUp(shape.num_pairs // (1 + NUM_NEGATIVES), shape.length).pairs()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), shape, [text for pair in pairs for text in pair], device)
        options: dict[str, Any] = {"kind": "decoder", "prompt": "bge"} if shape.causal else {}
        reranker = Reranker(folder, device=device, dtype="bf16", max_length=shape.length, verbose=0, **options)
    ranker = reranker.ranker
    assert isinstance(ranker, LocalRanker)
    work = flops(ranker, pairs, shape)
    scorings = {"ours": reranker.score, "theirs": partial(padded, ranker, shape)}
    seconds: dict[str, list[float]] = {side: [] for side in scorings}
    for number in range(rounds + 1):
        for side, score in scorings.items():
            taken = timed(score, pairs if number else pairs[: 2 * shape.batch_size])
            print(f"{name}, {side}, round {number} of {rounds}: {taken:.3g} s", file=sys.stderr)
            if number:
                seconds[side].append(taken)
    mine, its = (median(seconds[side]) for side in scorings)
    detail = {side: [round(taken, 3) for taken in found] for side, found in seconds.items()}
    cases = [compared(f"{name}: speed", len(pairs) / mine, len(pairs) / its, "pairs/s", "", {"seconds": detail})]
    if peak:
        cases.append(compared(f"{name}: utilisation", 100 * work / peak / mine, 100 * work / peak / its, "%"))
    else:
        cases.append(alone(f"{name}: achieved", work / mine / 1e9, "GFLOP/s"))
    return cases


def timed(score: Callable[[Pairs], list[float]], pairs: Pairs) -> float:
    """Scores come back as Python numbers, so the GPU is done when they are there."""
    start = time.perf_counter()
    score(pairs)
    return time.perf_counter() - start


def padded(ranker: LocalRanker, shape: Shape, pairs: Pairs) -> list[float]:
    scores: list[float] = []
    limits = Limits(shape.length)
    with torch.inference_mode():
        for start in range(0, len(pairs), shape.batch_size):
            batch = ranker.read(pairs, range(start, min(start + shape.batch_size, len(pairs))), limits)
            scores += ranker.forward(batch).float().cpu().tolist()
    return scores


def flops(ranker: LocalRanker, pairs: Pairs, shape: Shape) -> float:
    """What all pairs ask for; the decoder's head counts at one place of each."""
    lengths = [len(read.piece.ids) for read in ranker.read(pairs, range(len(pairs)), Limits(shape.length))]
    layers = ranker.model.base_model.modules()
    linear = sum(module.weight.numel() for module in layers if isinstance(module, torch.nn.Linear))
    attention = (2 if shape.causal else 4) * shape.num_heads * shape.head_dim * shape.num_layers
    head = 2 * shape.hidden_size * shape.vocabulary if shape.causal else 0
    return float(sum(2 * linear * n + attention * n * n + head for n in lengths))


def write_model(folder: Path, shape: Shape, texts: list[str], device: str) -> None:
    """Random weights in bfloat16."""
    from transformers import GemmaConfig, GemmaForCausalLM, XLMRobertaConfig, XLMRobertaForSequenceClassification

    tokenizer = made_up.tokenizer(texts, max_length=8192)
    given = made_up.settings(shape, tokenizer)
    torch.manual_seed(0)
    model: Any
    with torch.device(device):  # billions of random numbers take a CPU a while
        if shape.causal:
            config = GemmaConfig(**given, num_key_value_heads=shape.num_kv_heads, head_dim=shape.head_dim)
            model = GemmaForCausalLM(config)
        else:
            config = XLMRobertaConfig(**given, type_vocab_size=1)
            config.num_labels = 1
            model = XLMRobertaForSequenceClassification(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    raise SystemExit(main())
