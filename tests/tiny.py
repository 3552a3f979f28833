"""Tiny random models for tests: real transformers classes, a few thousand weights, no training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jointrag.agents import Chain, build_chain
from jointrag.config import AgentsConfig, ScratchLM
from jointrag.generation import LocalLM
from jointrag.prompts import encode_prompt, encode_response
from jointrag.types import Episode, Hit, Passage, Question

TINY = ScratchLM(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_length=256)
AGENTS = AgentsConfig.model_validate(
    {
        "num_candidates": 3,
        "rewriter": {"max_new_tokens": 8},
        "selector": {"max_new_tokens": 6},
        "generator": {"max_new_tokens": 4},
    }
)
PASSAGES = [Passage(f"p{i}", "", f"{name} lives in {city} .") for i, (name, city) in enumerate(
    [("Anna", "Oslo"), ("Ben", "Turku"), ("Clara", "Malmo"), ("Dario", "Bergen"), ("Elsa", "Aarhus")]
)]  # fmt: skip
QUESTIONS = [Question(f"q{i}", f"Where does {p.text.split()[0]} live ?", (p.text.split()[3],), "one-hop", (p.id,))
             for i, p in enumerate(PASSAGES)]  # fmt: skip


class FixedRetriever:
    """Always the same passages, first the one that shares the query's third word."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [
            sorted((Hit(p, float(p.text.split()[0] in query)) for p in PASSAGES), key=lambda hit: -hit.score)[:k]
            for query in queries
        ]


def chain() -> Chain:
    return build_chain(AGENTS)


def tiny_lm(seed: int = 0) -> LocalLM:
    """A random Llama that knows the words of QUESTIONS and PASSAGES."""
    import torch

    from trainers.labelling import label
    from trainers.warm_start import from_scratch

    torch.manual_seed(seed)
    labelled = [example for one in label(QUESTIONS, chain(), FixedRetriever()) for example in one.examples]
    model, tokenizer = from_scratch(TINY, labelled, "cpu")
    return LocalLM(model, tokenizer, TINY.max_length)


def teach_to_read(lm: LocalLM) -> None:
    """Some steps of supervised training: the answer is the last word of the passage that is read."""
    import torch

    generator = chain().agents[-1]
    examples: list[tuple[list[int], list[int]]] = []
    for question in QUESTIONS:
        for passage in PASSAGES:
            made = generator.prompt(Episode(question, candidates=(passage,)))
            city = passage.text.split()[3]
            examples.append((encode_prompt(lm.tokenizer, made), encode_response(lm.tokenizer, city, None)))
    width = max(len(prompt) + len(response) for prompt, response in examples)
    ids = torch.tensor([[*p, *r, *[lm.end] * (width - len(p) - len(r))] for p, r in examples])
    labels: Any = torch.full_like(ids, -100)
    for row, (p, r) in enumerate(examples):
        labels[row, len(p) : len(p) + len(r)] = torch.tensor(r)
    optimizer = torch.optim.Adam(lm.model.parameters(), lr=3e-3)
    for _ in range(100):
        loss = lm.model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    lm.model.eval()
