"""A small corpus with questions, an untrained encoder and an index over it: enough for real retrieval in seconds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jointrag.config import IndexConfig, RetrieverConfig, ScratchEncoder
from jointrag.jsonl import write_jsonl
from jointrag.types import Passage, Question

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FIRST = ("Ada", "Bela", "Cora", "Dino", "Elsa", "Fritz", "Gina", "Hugo")
LAST = ("Adler", "Brand", "Cramer", "Dorn", "Engel", "Falk", "Gross", "Haas")
CITIES = ("Port Nevin", "Saint Yarrow", "New Pell", "Castle Benno")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared data set; do not change it.

    128 passages (two facts about 64 people), one question per fact, the same questions in every split.
    """
    out = tmp_path_factory.mktemp("world")
    passages, questions = [], []
    for i, (first, last) in enumerate((first, last) for first in FIRST for last in LAST):
        name, home, birth = f"{first} {last}", CITIES[i % 4], CITIES[i // 4 % 4]
        passages += [
            Passage(f"home-{i}", name, f"{name} lives in {home}."),
            Passage(f"birth-{i}", name, f"{name} was born in {birth}."),
        ]
        questions += [
            Question(f"q-home-{i}", f"Where does {name} live?", (home,), "one-hop", (f"home-{i}",)),
            Question(f"q-birth-{i}", f"In which city was {name} born?", (birth,), "one-hop", (f"birth-{i}",)),
        ]
    write_jsonl(out / "corpus.jsonl", passages)
    for split in ("source", "train", "dev", "test"):
        write_jsonl(out / "questions" / f"{split}.jsonl", questions)
    return out


@pytest.fixture(scope="session")
def retriever_dir(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained retriever; do not change it."""
    from trainers.embedding import train

    out = tmp_path_factory.mktemp("retriever")
    encoder = ScratchEncoder(hidden_size=64, num_layers=1, num_heads=2, max_length=32)
    train(RetrieverConfig(encoder=encoder, train=False), prepared=world, seed=0, out=out, device="cpu")
    return out


@pytest.fixture(scope="session")
def index_dir(world: Path, retriever_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat index over `world`; do not change it."""
    from jointrag.index import build

    out = tmp_path_factory.mktemp("index")
    build(IndexConfig(), prepared=world, retriever=retriever_dir, out=out, device="cpu")
    return out
