"""What benchmarks/retrieval_quality.py does for one half of the questions: mine, choose settings, train, rank.

    world = World(load(samples), work, QUICK)
    base = base_rankings(world)                                  # before training, and what rerankers reorder
    chosen = choose(world, fold, ROWS["pairs"], {})              # on a part of the training half
    after = test(world, fold, ROWS["pairs"], chosen.trial, seed=0)

Everything is kept in `work`, so that a run that was interrupted goes on. Rankings are positions in the corpora of
benchmarks.real_questions. Training and rerankers run in bfloat16 (autocast), twice as fast on a CPU with AMX; embedding
models are measured in float32, because rounding moves their recall by up to a point.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality_rows import MINING, ROWS, Trial
from benchmarks.real_questions import Asked, RealQuestions, halves
from benchmarks.retrieval_training import minilm
from evaluation.rankings import ModelKind, Positions, load_model, rank
from evaluation.retrieval import measure
from jointrag.bm25 import BM25
from jointrag.config import LateInteractionConfig, PretrainedEncoder, RerankerConfig, RetrieverConfig
from jointrag.encoders import Encoder
from jointrag.index.exact import nearest
from jointrag.jsonl import write_atomically, write_jsonl
from trainers.negatives import mine
from trainers.retrieval.records import Record, write_records

DEPTH = 50  # passages that rerankers put in order
_AMONG = 10  # passages that a question of the inner split is ranked among, besides its gold ones
_BATCH = 16  # texts; larger ones are slower on a CPU


@dataclass(frozen=True)
class World:
    data: RealQuestions
    work: Path
    precision: str = "bf16"
    trials: int | None = None  # per row; None: all


@dataclass(frozen=True)
class Fold:
    number: int
    train: list[Asked]
    test: list[Asked]


@dataclass(frozen=True)
class Chosen:
    trial: Trial
    tried: list[dict[str, Any]]  # each with its nDCG@10 on the questions of the inner split
    before: float  # the same of the model before training


def folds(data: RealQuestions) -> list[Fold]:
    first, second = halves(data.asked, seed=0)
    return [Fold(0, first, second), Fold(1, second, first)]


# ---- before training -------------------------------------------------------------------------------------------------


def base_rankings(world: World) -> dict[str, dict[str, list[int]]]:
    """The best passages for every question by id, of the model before training and of BM25."""

    def make() -> dict[str, Positions]:
        return {"before": search(world, Path(minilm()), world.data.asked), "bm25": _bm25(world)}

    found = _kept(world.work / "base.json", make)
    return {
        name: {one.question.id: row for one, row in zip(world.data.asked, rows, strict=True)}
        for name, rows in found.items()
    }


def search(world: World, model: Path, asked: Sequence[Asked]) -> Positions:
    """Each question's DEPTH nearest passages of its source's corpus."""
    encoder = Encoder.load(model, "cpu")
    passages = encoder.encode(world.data.texts, kind="passage", batch_size=_BATCH)
    queries = encoder.encode([one.question.text for one in asked], kind="query", batch_size=_BATCH)
    found: Positions = [[] for _ in asked]
    for source, part in world.data.part.items():
        rows = [i for i, one in enumerate(asked) if one.source == source]
        best, _ = nearest(queries[rows], [passages[part.start : part.stop]], DEPTH)
        for i, row in zip(rows, (best + part.start).tolist(), strict=True):
            found[i] = row
    return found


def _bm25(world: World) -> Positions:
    found: dict[str, list[int]] = {}
    for source, part in world.data.part.items():
        asked = [one.question for one in world.data.asked if one.source == source]
        bm25 = BM25.build(world.data.texts[part.start : part.stop], scratch=world.work)
        best, _ = bm25.search([question.text for question in asked], DEPTH)
        for question, row in zip(asked, best.tolist(), strict=True):
            found[question.id] = [part.start + place for place in row if place >= 0]
    return [found[one.question.id] for one in world.data.asked]


def _corpus(world: World, source: str) -> Path:
    path = world.work / source / "corpus.jsonl"
    if not path.is_file():
        write_jsonl(path, (world.data.passages[i] for i in world.data.part[source]))
    return path


# ---- training data ---------------------------------------------------------------------------------------------------


def mine_negatives(world: World, fold: Fold) -> None:
    """For the training half, with the model before training, from the whole corpora, in every way of MINING."""
    for source in world.data.part:
        data = world.work / f"fold{fold.number}" / f"{source}.jsonl"
        write_jsonl(data, (one.question for one in fold.train if one.source == source))
        for name, config in MINING.items():
            out = _mined(world, fold, name, source)
            if not out.is_file():
                with _rounded(world):
                    mine(
                        config,
                        data=data,
                        corpus=_corpus(world, source),
                        retriever=minilm(),
                        out=out,
                        work=world.work / source,
                        device="cpu",
                    )


def records(world: World, fold: Fold, asked: Iterable[Asked], negatives: str) -> list[Record]:
    """What there is to learn from these questions of the training half."""
    if not negatives:
        return [Record(one.question.text, tuple(world.data.texts[i] for i in sorted(one.gold))) for one in asked]
    wanted = {one.question.text for one in asked}
    found = []
    for source in world.data.part:
        for line in _mined(world, fold, negatives, source).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["query"] in wanted:
                found.append(Record(row["query"], tuple(row["pos"]), tuple(row["neg"])))
    return found


def _mined(world: World, fold: Fold, name: str, source: str) -> Path:
    return world.work / f"fold{fold.number}" / f"{source} {name}.jsonl"


# ---- training and ranking --------------------------------------------------------------------------------------------


def choose(world: World, fold: Fold, row: str, chosen: Mapping[str, Chosen]) -> Chosen:
    """The best settings on one half of the training half, trained on its other half; test questions have no part."""
    trials = ROWS[row].trials[: world.trials]
    if after := ROWS[row].after:
        trials = tuple(replace(chosen[after].trial, negatives=name) for name in MINING)[: world.trials]

    inner_train, inner_dev = halves(fold.train, seed=1)
    base, candidates = base_rankings(world)["before"], _nearest_and_gold(world, inner_dev)

    def score(rankings: Positions) -> float:
        return measure(rankings, [one.gold for one in inner_dev], ["ndcg@10"]).means()["ndcg@10"]

    def make() -> list[float]:
        scores = []
        for i, trial in enumerate(trials):
            out = world.work / f"fold{fold.number}" / f"{row}-trial{i}"
            started = time.monotonic()
            model = _train(world, row, trial, records(world, fold, inner_train, trial.negatives), 0, out)
            scores.append(score(reorder(world, ROWS[row].kind, model, inner_dev, candidates)))
            shutil.rmtree(out)
            say(f"fold {fold.number}, {row}, {trial}: nDCG@10 {scores[-1]:.3f} in {time.monotonic() - started:.0f} s")
        return scores

    scores = _kept(world.work / f"fold{fold.number}" / f"{row}-trials.json", make)
    best = trials[max(range(len(trials)), key=scores.__getitem__)]
    tried = [asdict(trial) | {"ndcg@10": round(score, 4)} for trial, score in zip(trials, scores, strict=True)]
    before = [sorted(row, key=_places(base[one.question.id])) for one, row in zip(inner_dev, candidates, strict=True)]
    return Chosen(best, tried, round(score(before), 4))


def test(world: World, fold: Fold, row: str, trial: Trial, seed: int) -> Positions:
    """The test half's rankings by a model that was trained on the whole training half: an embedding model's own,
    or the base's first DEPTH in a reranker's order."""

    def make() -> Positions:
        out = world.work / f"fold{fold.number}" / f"{row}-seed{seed}"
        started = time.monotonic()
        model = _train(world, row, trial, records(world, fold, fold.train, trial.negatives), seed, out)
        trained = time.monotonic()
        if ROWS[row].kind == "embedding":
            rankings = search(world, model, fold.test)
        else:
            base = base_rankings(world)["before"]
            rankings = reorder(world, ROWS[row].kind, model, fold.test, [base[one.question.id] for one in fold.test])
        shutil.rmtree(out)
        spent = f"{trained - started:.0f} s of training, {time.monotonic() - trained:.0f} s of ranking"
        say(f"fold {fold.number}, {row}, seed {seed}: {spent}")
        return rankings

    return _kept(world.work / f"fold{fold.number}" / f"{row}-seed{seed}.json", make)


def reorder(world: World, kind: ModelKind, model: Path, asked: Sequence[Asked], candidates: Positions) -> Positions:
    with _rounded(world):
        queries = [one.question.text for one in asked]
        return rank(load_model(model, kind, "cpu"), queries, world.data.texts, candidates, batch_size=_BATCH)


def _nearest_and_gold(world: World, asked: Sequence[Asked]) -> Positions:
    """What the inner split is ranked among. Gold passages last: equal scores keep this order."""
    base = base_rankings(world)["before"]
    rows = ((one, [i for i in base[one.question.id][:_AMONG] if i not in one.gold]) for one in asked)
    return [[*others, *sorted(one.gold)] for one, others in rows]


def _places(ranking: Sequence[int]) -> Callable[[int], int]:
    """Where each passage stands; one that is not there after all others."""
    return lambda passage: ranking.index(passage) if passage in ranking else len(ranking)


def _train(world: World, row: str, trial: Trial, data: list[Record], seed: int, out: Path) -> Path:
    """The folder of the trained model."""
    shutil.rmtree(out, ignore_errors=True)
    file = out / "train.jsonl"
    write_records(file, data)
    settings: dict[str, Any] = {
        "num_epochs": trial.num_epochs,
        "learning_rate": trial.learning_rate,
        "batch_size": 16,
        "num_negatives": ROWS[row].num_negatives,
        "repeat_negatives": True,  # a question may have fewer than asked
        "max_length": 128,
        "precision": world.precision,
    }
    given: dict[str, Any] = {"seed": seed, "out": out, "device": "cpu"}
    if ROWS[row].kind == "embedding":
        from trainers import embedding

        config = RetrieverConfig(encoder=PretrainedEncoder(name=minilm()), data=file, **settings)
        embedding.train(config, prepared=None, **given)
    elif ROWS[row].kind == "reranker":
        from trainers import reranker

        settings["max_length"] = 160  # query and passage
        config = RerankerConfig(model=minilm(), loss="listwise", held_out=0, **settings)
        reranker.train(config, data=file, **given)
    else:
        from trainers import late_interaction

        late_interaction.train(LateInteractionConfig(model=minilm(), held_out=0, **settings), data=file, **given)
    return out / "model"


# ---- keeping what is done --------------------------------------------------------------------------------------------


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What the file holds, or what `make` returns, which it then holds."""
    if not path.is_file():
        write_atomically(path, json.dumps(make()))
    return json.loads(path.read_text(encoding="utf-8"))


def _rounded(world: World) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=world.precision == "bf16")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
