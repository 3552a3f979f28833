"""Hard negatives: passages that a retriever ranks high for a question and that do not answer it.

python -m trainers.negatives --data train.jsonl --corpus corpus.jsonl --retriever bm25 --out mined.jsonl
python -m trainers.negatives --data data/prepare/KEY/questions/source.jsonl --corpus data/prepare/KEY/corpus.jsonl \\
    --retriever models/retriever/KEY/model --out mined.jsonl --set num_negatives=15 --set first_rank=10

`--data` is a training file with known positives (see trainers.retrieval.records) or questions with gold_passages; what
is written is a training file. The retriever is bm25, an embedding model (folder or name), or an index folder.

Not everything near the top is a negative: much of it answers the question and nobody has marked it. Left out are texts
that equal or hold a positive of the question (of any line with that question), texts that hold a gold answer, and what
NegativesConfig's ranks, margin and share of the positive's score exclude (the share is that of Moreira et al. 2024,
NV-Retriever).
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jointrag.config import NegativesConfig
from jointrag.metrics import VERDICTS, accuracy, normalize
from jointrag.progress import progress
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Passage
from trainers.retrieval.tally import WHY, Reason, Tally

if TYPE_CHECKING:
    from trainers.retrieval.corpus_search import CorpusSearch
    from trainers.retrieval.known import Known
    from trainers.retrieval.records import Record

logger = logging.getLogger("trainers.negatives")  # __name__ is __main__ on the command line
_QUESTIONS_AT_ONCE = 16_384  # searched for in one pass over the corpus
FILE = "negatives.jsonl"
_SPARE_RANKS = 8  # for texts that are in the corpus twice
_SURELY_A_TEXT = 5  # words; a positive of fewer is a phrase, and not every text that holds it answers the question


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage as a retriever found it."""

    passage: Passage
    score: float


def mine(
    config: NegativesConfig,
    *,
    data: Path,
    corpus: Path,
    retriever: str | Path,
    out: Path,
    work: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Write the training file `out`: the questions of `data`, each with negatives from `corpus` (Passage lines).

    The embedded corpus is kept in `work` for later runs; without it, in a folder beside `out` until this run is done.
    Returns negatives/questions, /negatives, /short, /dropped …, see `Tally`. Raises ValueError for broken files, data
    without positives, a retriever that cannot be loaded, and when not one question is left.
    """
    from trainers.retrieval.corpus_search import open_search
    from trainers.retrieval.known import open_known
    from trainers.retrieval.records import write_records

    started = time.monotonic()
    folder = work or out.with_name(f".{out.name}.work")
    known = open_known(data, folder)
    search = open_search(retriever, corpus, work=folder, language=config.language, device=device)
    tally = Tally(config.num_negatives)
    records = _mined(config, known.read(search.corpus, bare=retriever == "bm25"), search, seed, tally)
    write_records(out, records, "flagembedding" if config.scores else "triplets")
    if work is None:
        shutil.rmtree(folder)
    metrics = tally.metrics() | {"negatives/seconds": time.monotonic() - started}
    tracker.log_metrics(metrics, 0)
    logger.info("%s: %s", out, tally)
    if config.titles and tally.bare_positives > tally.titled_positives:
        logger.warning(
            "positives of %s are passages without their titles, the negatives have them, and a model would learn to "
            "tell the two apart by that; set titles=false",
            data,
        )
    return metrics


def mine_prepared(
    config: NegativesConfig,
    *,
    prepared: Path,
    retriever: Path,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """The stage: for questions/source.jsonl with retriever/model, into the folder `out`."""
    return mine(
        config,
        data=prepared / "questions" / "source.jsonl",
        corpus=prepared / "corpus.jsonl",
        retriever=retriever / "model",
        out=out / FILE,
        seed=seed,
        device=device,
        tracker=tracker,
    )


def _mined(
    config: NegativesConfig, questions: Iterator[Known], search: CorpusSearch, seed: int, tally: Tally
) -> Iterator[Record]:
    """The questions with their negatives, those left out that are to be dropped."""
    from trainers.retrieval.records import Record

    while block := list(islice(questions, _QUESTIONS_AT_ONCE)):
        most_positives = max(len(question.answering) for question in block)
        found = search.search(
            [question.searched for question in block],
            config.last_rank + most_positives + _SPARE_RANKS,
            [question.positives for question in block],
        )
        for i, question in enumerate(progress(block, "choosing negatives, question")):
            candidates = (
                Candidate(search.corpus[position], score)
                for position, score in zip(found.positions[i].tolist(), found.scores[i].tolist(), strict=True)
                if position >= 0
            )
            rng = random.Random(f"{seed} {tally.questions}")
            positive_score = (min if config.compare_with == "worst" else max)(found.own[i])
            negatives = choose(candidates, question, positive_score, config, rng, tally)
            if negatives is None:
                continue
            yield Record(
                question.query,
                question.positives,
                tuple(c.passage.contents if config.titles else c.passage.text for c in negatives),
                tuple(found.own[i]) if config.scores else (),
                tuple(candidate.score for candidate in negatives) if config.scores else (),
            )
    if tally.dropped == tally.questions:
        raise ValueError(f"not one question has negatives: {tally}; widen the ranks, or loosen margin and max_share")


def choose(
    candidates: Iterable[Candidate],
    question: Known,
    positive_score: float,
    config: NegativesConfig,
    rng: random.Random,
    tally: Tally,
) -> list[Candidate] | None:
    """The question's negatives among `candidates` (best first), in their order; None: the question is dropped.

    `positive_score` is that of the positive they are compared with.
    """
    most = _highest_score(positive_score, config)
    answers = [answer for answer in question.answers if config.leave_out_answers and normalize(answer) not in VERDICTS]
    left: list[tuple[int, Candidate]] = []
    removed: Counter[Reason] = Counter()
    for rank, candidate in enumerate(_other_texts(candidates, question, config.titles, tally), 1):
        if rank > config.last_rank or (config.choose == "top" and len(left) == config.num_negatives):
            break
        if rank < config.first_rank:
            removed["rank"] += 1
        elif candidate.score > most:
            removed["score"] += 1
        elif answers and accuracy(candidate.passage.contents, answers):
            removed["answer"] += 1
        else:
            left.append((rank, candidate))
    if len(left) > config.num_negatives:
        left = [left[i] for i in sorted(rng.sample(range(len(left)), config.num_negatives))]
    is_dropped = not left or (config.too_few == "drop" and len(left) < config.num_negatives)
    _count(tally, left, removed, is_dropped)
    return None if is_dropped else [candidate for _, candidate in left]


def _highest_score(positive_score: float, config: NegativesConfig) -> float:
    """What a negative may score."""
    limits = [float("inf")]
    if config.margin is not None:
        limits.append(positive_score - config.margin)
    if config.max_share is not None:  # of a positive below 0, too: a share of its size below it
        limits.append(positive_score - (1 - config.max_share) * abs(positive_score))
    return min(limits)


def _other_texts(candidates: Iterable[Candidate], question: Known, titles: bool, tally: Tally) -> Iterator[Candidate]:
    """Those that are not, and do not hold, a positive of the question; each text once, and no empty one."""
    from trainers.retrieval.known import comparable

    long = [f" {text} " for text in question.answering if text.count(" ") >= _SURELY_A_TEXT - 1]
    seen: set[str] = set()
    for candidate in candidates:
        contents, text = comparable(candidate.passage.contents), comparable(candidate.passage.text)
        written = contents if titles else text
        if contents in question.answering:
            tally.titled_positives += bool(candidate.passage.title)
        elif text in question.answering:
            tally.bare_positives += 1
        elif written and written not in seen and not any(positive in f" {contents} " for positive in long):
            seen.add(written)
            yield candidate


def _count(tally: Tally, left: Sequence[tuple[int, Candidate]], removed: Counter[Reason], is_dropped: bool) -> None:
    tally.questions += 1
    tally.removed += removed
    tally.dropped += is_dropped
    if not is_dropped:
        tally.negatives += len(left)
        tally.ranks += sum(rank for rank, _ in left)
    if len(left) < tally.asked:
        tally.short += 1
        reason = f"most {WHY[removed.most_common(1)[0][0]]}" if removed else "no more were found"
        tally.short_for[reason] += 1


# ---- command line ----------------------------------------------------------------------------------------------------


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="a training file, or questions with gold_passages")
    parser.add_argument("--corpus", type=Path, required=True, help="passages: lines with id, title and text")
    parser.add_argument("--retriever", default="bm25", help="bm25 (default), an embedding model, or an index folder")
    parser.add_argument("--out", type=Path, required=True, help="the training file to write")
    parser.add_argument("--work", type=Path, help="a folder that keeps the embedded corpus for later runs")


def _run(config: NegativesConfig, options: argparse.Namespace) -> dict[str, float]:
    return mine(
        config,
        data=options.data,
        corpus=options.corpus,
        retriever=options.retriever,
        out=options.out,
        work=options.work,
        seed=options.seed,
        device=options.device,
    )


if __name__ == "__main__":
    from trainers.command_line import main

    raise SystemExit(main("trainers.negatives", __doc__, NegativesConfig, _arguments, _run))
