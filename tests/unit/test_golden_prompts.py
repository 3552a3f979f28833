"""What the agents are told, word for word, and that supervised training, rollouts and evaluation tell them just that.

golden_prompts.json holds every agent's prompt for one question, as two chat templates and a model from scratch put it.
A change of it is a change of every trained model's input: make it on purpose, with

    python -m tests.unit.test_golden_prompts
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jointrag.agents import build_chain
from jointrag.config import AgentsConfig
from jointrag.generation import GREEDY, Completion, LocalLM, Sampling
from jointrag.pipeline import answer
from jointrag.prompts import messages
from jointrag.types import Hit, Passage, Prompt, Question
from tests.tiny import TINY
from trainers.labelling import label
from trainers.scratch import word_level_tokenizer
from trainers.warm_start import encode, from_scratch

GOLDEN = Path(__file__).with_name("golden_prompts.json")
PASSAGES = [
    Passage("d", "Silent Harbor", "Silent Harbor was directed by Anna Berg."),
    Passage("b", "Anna Berg", "Anna Berg was born in Port Hale, 東京."),
    Passage("x", "", "Olga Holm was born in New Rusk."),
]
QUESTION = Question(
    "q1", "Where was the director of Silent Harbor born?", ("Port Hale",), "bridge", ("d", "b"),
    ("Who directed Silent Harbor?", "Where was Anna Berg born?"),
)  # fmt: skip
AGENTS = AgentsConfig.model_validate(
    {"num_candidates": 3, **{name: {"max_new_tokens": 8} for name in ("rewriter", "selector", "generator")}}
)
CHAIN = build_chain(AGENTS)
TEMPLATES = {
    "chat": "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] ",
    "chat without a system role": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "
    ),
    "from scratch": None,
}


class EverythingRetriever:
    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(passage, 1.0) for passage in PASSAGES[:k]] for _ in queries]


class SaysLabels:
    """A real model, whose words are replaced by the labels; so every turn's prompt is that of the labelled episode."""

    def __init__(self, lm: LocalLM, words: dict[str, str]) -> None:
        self._lm, self._words = lm, words

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        completions = self._lm.generate(prompts, max_new_tokens, sampling)
        return [replace(c, text=self._words[p.agent]) for c, p in zip(completions, prompts, strict=True)]


def examples() -> Any:
    (labelled,) = label([QUESTION], CHAIN, EverythingRetriever())
    return labelled.examples


def model(kind: str) -> LocalLM:
    """A tiny model of this kind that knows the words of the prompts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if TEMPLATES[kind] is None:
        return LocalLM(*from_scratch(TINY.model_copy(update={"max_length": 512}), examples(), "cpu"), max_length=512)
    texts = [f"{e.prompt.instructions} {e.prompt.content} {e.response} [assistant] [user] [system]" for e in examples()]
    tokenizer: Any = word_level_tokenizer(texts, ["<pad>", "<unk>", "<eos>"], lowercase=False, keep_newlines=True)
    tokenizer.chat_template = TEMPLATES[kind]
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    return LocalLM(LlamaForCausalLM(shape), tokenizer, max_length=512)


def rendered(kind: str, prompt: Prompt) -> str:
    """The prompt as this kind of model reads it, before it is cut into tokens."""
    if TEMPLATES[kind] is None:
        return f"<{prompt.agent}>{prompt.content}<respond>"
    said = messages(prompt, system_role=kind == "chat")
    return "".join(f"[{m['role']}] {m['content']}\n" for m in said) + "[assistant] "


@pytest.mark.parametrize("kind", TEMPLATES)
def test_training_rollouts_and_evaluation_tell_the_agents_what_is_written_down(kind: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[kind]
    lm = model(kind)
    written = [tuple(lm.tokenizer.encode(golden[agent.name], add_special_tokens=False)) for agent in CHAIN.agents]
    rows = encode(lm.tokenizer, examples(), 512, AGENTS)
    assert [tuple(row["input_ids"][: row["prompt_length"]]) for row in rows] == written
    says = SaysLabels(lm, {example.prompt.agent: example.response for example in examples()})
    for sampling in (Sampling(1.0, torch.Generator().manual_seed(0)), GREEDY):  # a rollout, an evaluation
        (episode,) = answer([QUESTION], CHAIN, EverythingRetriever(), says, sampling)
        assert [turn.prompt_ids for turn in episode.turns] == written
        assert episode.answer == "Port Hale"


def write() -> None:
    prompts = [example.prompt for example in examples()]
    golden = {kind: {prompt.agent: rendered(kind, prompt) for prompt in prompts} for kind in TEMPLATES}
    GOLDEN.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
