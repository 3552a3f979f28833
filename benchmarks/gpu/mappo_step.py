"""A step of MAPPO on a GPU: ours against a loop in the usual shape, and how well ours uses the machine.

    python -m benchmarks.gpu.mappo_step                          # writes benchmarks/results/gpu/mappo_step.json
    python -m benchmarks.gpu.mappo_step --device cpu --quick     # a tiny shape: does the script run?

The model has the published shape of Llama-3.2-1B with random weights in bfloat16, LoRA on all linear layers, and
passages as long as in the paper, so the selector reads some 1,500 tokens. "theirs" is benchmarks/reference_loop.py: 4
left-padded prompts at a time, logits at every position, a second model as the reference.

Model-FLOPs utilisation of the update is the work that the method asks for, over what the device could do in that time.
Of a turn of n tokens, r of them response, it counts

    4 * n * weights in linear layers              forward and back; frozen weights need no gradient of their own
    6 * n * weights in adapters                   these do
    6 * n^2 * hidden * layers                     causal attention: scores and mixing, forward and twice that back
    4 * r * hidden * vocabulary                   logits where there is a response to score, and nowhere else

and leaves out padding, norms, softmax and whatever is computed twice.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu import command
from benchmarks.loops import Loop, OurLoop, Step, Timing
from benchmarks.record import Case, alone, compared
from benchmarks.reference_loop import ReferenceLoop
from benchmarks.workload import WordMatchRetriever, llama, make_world
from jointrag.agents import build_chain
from jointrag.config import AgentsConfig, Lora, MappoConfig

ROUNDS = 3
NOTES = (
    "Random weights: responses run to max_new_tokens on both sides, except the selector's. A step is rollout, scoring "
    "and update; medians of {rounds} after a warm-up, sides in turn. Memory is the rise of the allocator's peak over "
    "what the models take. {peak}"
)


@dataclass(frozen=True)
class Shape:
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocabulary: int
    dtype: str

    @property
    def linear_weights(self) -> int:
        """Of the layers; the embedding, which is also the head, is counted apart."""
        key_value = self.hidden_size * self.num_kv_heads // self.num_heads
        attention = 2 * self.hidden_size * (self.hidden_size + key_value)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    def update_flops(self, step: Step, adapter_weights: int, num_epochs: int) -> float:
        """What the module's docstring adds up."""
        total = 0.0
        for prompt, response in step.lengths:
            n = prompt + response
            total += n * (4 * self.linear_weights + 6 * adapter_weights)
            total += 6 * n**2 * self.hidden_size * self.num_layers
            total += 4 * response * self.hidden_size * self.vocabulary
        return num_epochs * total


LLAMA_1B = Shape(2048, 16, 32, 8, 8192, 128_256, "bfloat16")
TINY = Shape(64, 2, 4, 2, 128, 4_000, "float32")


def main() -> int:
    return command.run("mappo_step", __doc__, _measure)


def _measure(device: str, quick: bool) -> tuple[list[Case], str]:
    cases = measure(device, LLAMA_1B if device != "cpu" else TINY, quick)
    return cases, NOTES.format(rounds=ROUNDS, peak=command.about_peak(device))


def measure(device: str, shape: Shape, quick: bool) -> list[Case]:
    on_gpu = device != "cpu"
    num_episodes = 4 if quick and not on_gpu else 8 if quick else 32
    agents, passage_words = AgentsConfig(), 140
    if quick:
        agents = AgentsConfig.model_validate({"rewriter": {"max_new_tokens": 8}, "generator": {"max_new_tokens": 4}})
        passage_words = 140 if on_gpu else 10
    config = MappoConfig(
        advantage="gae",
        rollouts_per_question=1,
        questions_per_step=num_episodes,
        minibatch_episodes=num_episodes // 2,
        dev_every=0,
        tokens_per_forward=16_384,
    )
    world = make_world(num_questions=64, passage_words=passage_words)
    sides: list[Any] = []
    for kind in (OurLoop, ReferenceLoop):
        torch.manual_seed(0)
        model, tokenizer = llama(world, device, lora=Lora(), **vars(shape))
        retriever = WordMatchRetriever(world.passages)
        sides.append(kind(config, build_chain(agents), model, tokenizer, world.questions, retriever, seed=0))
    adapter_weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    (ours, theirs), (our_rise, their_rise) = _interleaved(sides, on_gpu)

    update_flops = ours.median(lambda s: shape.update_flops(s, adapter_weights, config.ppo_epochs) / s.update_s)
    detail = {"ours": ours.detail(), "theirs": theirs.detail(), "longest_prompt": _longest(ours)}
    cases = [
        compared("episodes/s", ours.episodes_per_s, theirs.episodes_per_s, "episodes/s", ">= 4", detail),
        *_parts(ours, theirs),
        alone("update, achieved", update_flops / 1e12, "TFLOP/s"),
    ]
    if peak := command.peak_flops(device):
        cases.append(alone("update, model-FLOPs utilisation", 100 * update_flops / peak, "%"))
    if on_gpu:
        cases.append(compared("peak memory", our_rise, their_rise, "GiB", "<= 0.333"))
    return cases


def _interleaved(sides: list[Loop], on_gpu: bool) -> tuple[list[Timing], list[float]]:
    """Timings of both sides without the warm-up, and the greatest rise of the allocator's peak in GiB."""
    steps: list[list[Step]] = [[] for _ in sides]
    rises = [0.0 for _ in sides]
    for number in range(ROUNDS + 1):
        for i, side in enumerate(sides):
            if on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() if on_gpu else 0
            step = side.step()
            if on_gpu:
                rises[i] = max(rises[i], (torch.cuda.max_memory_allocated() - before) / 2**30)
            print(f"step {number} of {ROUNDS}, {type(side).__name__}: {step.seconds:.1f} s", file=sys.stderr)
            if number > 0:
                steps[i].append(step)
    return [Timing(tuple(found)) for found in steps], rises


def _parts(ours: Timing, theirs: Timing) -> list[Case]:
    """Where the time goes."""

    def case(name: str, unit: str, of: Callable[[Step], float]) -> Case:
        return compared(name, ours.median(of), theirs.median(of), unit)

    return [
        case("rollout, response tokens", "tokens/s", lambda step: step.response_tokens / step.rollout_s),
        case("rollout, time", "s", lambda step: step.rollout_s),
        case("scoring under the reference, time", "s", lambda step: step.reference_s),
        case("update, time", "s", lambda step: step.update_s),
    ]


def _longest(timing: Timing) -> int:
    return max(prompt for step in timing.steps for prompt, _ in step.lengths)


if __name__ == "__main__":
    raise SystemExit(main())
