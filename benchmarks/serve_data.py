"""What benchmarks/serve.py serves and asks: a corpus of the samples' sentences, its indexes, queries nobody asked."""

from __future__ import annotations

import itertools
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.real_questions import RealQuestions
from benchmarks.retrieval_training import minilm
from jointrag.types import Passage


def build_indexes(
    data: RealQuestions, num_passages: int, workspace: Path, factories: dict[str, str]
) -> dict[str, Path]:
    """Index folders by name; what is there already is taken as it is. Raises ValueError as jointrag.index.build."""
    from jointrag.config import IndexConfig
    from jointrag.index import build
    from jointrag.jsonl import write_jsonl

    folder = workspace / f"serve-{num_passages}"
    prepared, retriever = folder / "prepared", folder / "retriever"
    prepared.mkdir(parents=True, exist_ok=True)
    if not (prepared / "corpus.jsonl").exists():
        write_jsonl(prepared / "corpus.jsonl", recombined(data, num_passages))
    if not retriever.exists():
        shutil.copytree(minilm(), folder / ".retriever" / "model", dirs_exist_ok=True)
        (folder / ".retriever").rename(retriever)
    found: dict[str, Path] = {}
    for name, factory in factories.items():
        out = folder / name
        if not (out / "index.json").exists():
            if found and not out.exists():  # its vectors, where the build keeps them, need not be made again
                shutil.copytree(next(iter(found.values())), out)
            print(f"building {name} ({factory}) of {num_passages} passages", file=sys.stderr)
            config = IndexConfig(factory=factory, encoder_backend="bf16")  # several times faster, and the same to serve
            build(config, prepared=prepared, retriever=retriever, out=out, device="cpu")
        found[name] = out
    return found


def recombined(data: RealQuestions, count: int) -> Iterator[Passage]:
    """Passages of a real one's title and number of sentences, with sentences from anywhere."""
    rng = random.Random(0)
    texts = [re.split(r"(?<=[.!?])\s+", passage.text.strip()) for passage in data.passages]
    sentences = [sentence for text in texts for sentence in text if sentence]
    for i in range(count):
        like = rng.randrange(len(texts))
        yield Passage(str(i), data.passages[like].title, " ".join(rng.choices(sentences, k=len(texts[like]))))


def fresh_queries(data: RealQuestions) -> Iterator[str]:
    """Questions that were never asked: the beginning of one, the end of another, and a number."""
    rng = random.Random(1)
    words = [asked.question.text.split() for asked in data.asked]
    for number in itertools.count():
        first, second = rng.sample(words, 2)
        yield " ".join([*first[: len(first) // 2], *second[len(second) // 2 :], str(number)])
