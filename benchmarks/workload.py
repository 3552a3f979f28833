"""What the benchmarks train on: made-up questions and passages, a retriever that costs next to nothing, random models.

    world = make_world(num_questions=200)                     # one-sentence passages, as in the demo
    world = make_world(num_questions=200, passage_words=140)  # ten of these make a prompt of some 1,500 tokens
    model, tokenizer = demo_model(world, "cpu")

Weights are random: such a model hardly ever ends a response, so responses run to max_new_tokens. Only the selector's,
restricted to lists of documents, end of themselves.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from jointrag.agents import AGENTS
from jointrag.config import Lora, ScratchLM
from jointrag.datasets.synthetic import Names, ask, make_country
from jointrag.types import Example, Hit, Passage, Prompt, Question

NUM_COUNTRIES = 8
NUM_PEOPLE = 20


@dataclass(frozen=True)
class World:
    passages: tuple[Passage, ...]
    questions: tuple[Question, ...]


def make_world(num_questions: int, passage_words: int = 0, seed: int = 0) -> World:
    """Countries of the synthetic data set. Passages are single sentences, or as many in a row as it takes to reach
    `passage_words` words."""
    rng = np.random.default_rng(seed)
    names = Names(rng)
    countries = [make_country(names, "target", NUM_PEOPLE, f"country{i}", rng) for i in range(NUM_COUNTRIES)]
    sentences = [fact.passage for facts in countries for fact in facts]
    asked: list[Question] = []
    for i, facts in enumerate(countries):
        count = len(range(i, num_questions, len(countries)))
        asked += islice(ask(facts, "target", 0.5, rng), count)
    questions = [replace(question, id=f"q{i}") for i, question in enumerate(asked)]
    return World(tuple(_joined(sentences, passage_words) if passage_words else sentences), tuple(questions))


def _joined(sentences: Sequence[Passage], num_words: int) -> Iterator[Passage]:
    """A passage starts at every third sentence, so there are about as many to choose from as the index needs."""
    for start in range(0, len(sentences), 3):
        texts: list[str] = []
        for sentence in [*sentences[start:], *sentences]:  # the last ones go on from the beginning
            texts.append(sentence.text)
            if sum(len(text.split()) for text in texts) >= num_words:
                break
        yield Passage(f"p{start}", "", " ".join(texts))


class WordMatchRetriever:
    """The passages that share the rarest words with the query: a retriever in this process whose cost is negligible."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = passages
        rows: dict[str, list[int]] = defaultdict(list)
        for i, passage in enumerate(passages):
            for word in set(passage.text.lower().split()):
                rows[word].append(i)
        self._rows = {word: np.array(found) for word, found in rows.items()}

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self._search(query, k) for query in queries]

    def _search(self, query: str, k: int) -> list[Hit]:
        scores = np.zeros(len(self.passages))
        for word, count in Counter(query.lower().split()).items():
            if (rows := self._rows.get(word)) is not None:
                scores[rows] += count * math.log(1 + len(self.passages) / len(rows))
        best = np.argsort(-scores, kind="stable")[:k]
        return [Hit(self.passages[i], float(scores[i])) for i in best]


def demo_model(world: World, device: str) -> tuple[Any, Any]:
    """The demo's model with the words of this world, and its tokenizer."""
    from trainers.warm_start import from_scratch

    return from_scratch(ScratchLM(), list(_vocabulary_examples(world)), device)


def llama(
    world: World,
    device: str,
    *,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    intermediate_size: int,
    vocabulary: int,
    dtype: str = "float32",
    lora: Lora | None = None,
) -> tuple[Any, Any]:
    """A random Llama with tied embeddings, and a tokenizer that knows this world's words. Rows of the embedding beyond
    them stand for nothing, but cost what a vocabulary of that size costs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    _, tokenizer = demo_model(world, "cpu")
    assert len(tokenizer) <= vocabulary, f"{len(tokenizer)} words do not fit in a vocabulary of {vocabulary}"
    shape = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        intermediate_size=intermediate_size,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.device(device):
        model: Any = LlamaForCausalLM._from_config(shape, dtype=getattr(torch, dtype))
    if lora is not None:
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter)
    return model, tokenizer


def _vocabulary_examples(world: World) -> Iterator[Example]:
    """Examples that between them hold every word of the world, every agent's role and the selector's documents."""
    documents = tuple(f"Document{i}" for i in range(10))
    for agent in AGENTS:
        yield Example(agent, Prompt(agent, "", "Passage:", documents), "")
    for passage in world.passages:
        yield Example(passage.id, Prompt("generator", "", passage.contents), "")
    for question in world.questions:
        yield Example(question.id, Prompt("generator", "", question.text), ", ".join(question.answers))
