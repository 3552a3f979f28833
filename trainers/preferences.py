"""LLM preference: how much each candidate passage helps the language model that will read it. The retriever learns from
its reader (the idea of RAG-Retrieval's preference data and of REPLUG, Shi et al. 2023).

python -m trainers.preferences --data data/prepare/KEY/questions/source.jsonl --corpus data/prepare/KEY/corpus.jsonl \\
    --retriever models/retriever/KEY/model --reader Qwen/Qwen3-8B --out preferences.jsonl

A passage's score is what it adds, in nats, to the mean log-probability per token of the gold answer (end token
included) as the agent that answers would write it: with this one passage to read, minus with none; of several gold
answers the most likely one counts, on either side. 0: of no use; below 0: misleading. The prompts are the agent's own,
so the reader is asked just as it will be asked in use.

What is written is a training file {"query", "pos": [texts], "scores": [...]}, for retriever.loss=scores, whose
score_temperature divides these nats. Questions are scored in blocks, each written when it is done: an interrupted run
goes on after the last, with the same result.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jointrag.agents import Agent, build_chain
from jointrag.config import AgentsConfig, LanguageModelSection, OwnReader, PreferencesConfig
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.progress import progress
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Episode, Passage, Question
from trainers.gains import Scored, Shown, report, score_passages
from trainers.readers import Reader, open_reader

if TYPE_CHECKING:
    from jointrag.corpus import Corpus
    from trainers.retrieval.corpus_search import CorpusSearch

logger = logging.getLogger("trainers.preferences")  # __name__ is __main__ on the command line
FILE = "preferences.jsonl"
_QUESTIONS_AT_ONCE = 16_384  # searched for in one pass over the corpus


@dataclass(frozen=True, slots=True)
class Candidates:
    """A question's passages, as places in the corpus."""

    question: int  # its place among those that are scored
    passages: tuple[int, ...]
    gold: tuple[bool, ...]


def score(
    config: PreferencesConfig,
    agents: AgentsConfig,
    model: LanguageModelSection,
    *,
    prepared: Path,
    retriever: Path,
    generator: Path | None = None,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """The stage: score questions/source.jsonl with retriever/model's candidates, write out/preferences.jsonl.

    The reader is `config.reader`; where that is "own", the run's language `model` as it is, or as trained in the folder
    generator/model. `out` may hold the blocks of an interrupted run. Returns and raises what `score_questions` does.
    """
    own = isinstance(config.reader, OwnReader)
    reader = open_reader(
        model if isinstance(config.reader, OwnReader) else config.reader,
        folder=generator / "model" if own and generator else None,
        device=device,
        tokens_per_forward=config.tokens_per_forward,
    )
    return score_questions(
        config,
        reader,
        build_chain(agents).agents[-1],
        questions=prepared / "questions" / "source.jsonl",
        corpus=prepared / "corpus.jsonl",
        retriever=retriever / "model",
        out=out / FILE,
        seed=seed,
        device=device,
        tracker=tracker,
    )


def score_questions(
    config: PreferencesConfig,
    reader: Reader,
    generator: Agent,
    *,
    questions: Path,
    corpus: Path,
    retriever: str | Path,
    out: Path,
    work: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Write the training file `out`: the `questions` (Question lines) that have answers, with scored passages of
    `corpus` (Passage lines). `retriever`: see trainers.retrieval.corpus_search.

    What is written on the way is kept in `work` for later runs; without it, beside `out` until this run is done.
    Returns preferences/questions, /passages …, see trainers.gains.report. Raises ValueError for broken files, questions
    of which none has an answer, and when nothing can be scored.
    """
    from trainers.retrieval.corpus_search import open_search
    from trainers.retrieval.records import Record, write_records

    started = time.monotonic()
    folder = work or out.with_name(f".{out.name}.work")
    asked = _with_answers(questions, config.num_questions, seed)
    search = open_search(retriever, corpus, work=folder, language=config.language, device=device)
    key = _hash(search.fingerprint, asked, config.num_candidates, config.with_gold)
    candidates = _candidates(config, questions, asked, search, folder / f"candidates-{key}.jsonl")
    passages = search.corpus
    del search  # its model makes room for the reader
    blocks = (
        folder / f"scored-{_hash(key, reader.name, generator.prompt(Episode(asked[0])), config.questions_per_block)}"
    )
    _score_blocks(config, asked, candidates, passages, reader, generator, blocks)
    rows = (Record(row.query, row.passages, (), row.scores) for row in _scored(blocks) if len(row.passages) > 1)
    if not write_records(out, rows, "scored"):
        out.unlink()
        raise ValueError(
            f"{questions}: no question has two passages that the reader can take ({reader.max_length} tokens); give it "
            "a larger max_length, or a corpus of shorter passages"
        )
    seconds = time.monotonic() - started
    metrics = report(_scored(blocks)) | {
        "preferences/tokens": float(reader.count.real),
        "preferences/tokens_per_s": reader.count.real / seconds,
        "preferences/seconds": seconds,
    }
    if work is None:
        shutil.rmtree(folder)
    tracker.log_metrics(metrics, 0)
    return metrics


def _with_answers(path: Path, most: int | None, seed: int) -> list[Question]:
    everything = list(read_jsonl(path, Question))
    asked = [replace(q, answers=answers) for q in everything if (answers := tuple(a for a in q.answers if a.strip()))]
    if not asked:
        raise ValueError(f"{path}: no question has an answer, so nothing can be said about an answer's likelihood")
    if missing := len(everything) - len(asked):
        logger.info("%s: %d of %d questions have no answer and are left out", path, missing, len(everything))
    if most is not None and len(asked) > most:
        asked = [asked[i] for i in sorted(random.Random(seed).sample(range(len(asked)), most))]
    return asked


def _scored(blocks: Path) -> Iterator[Scored]:
    return (row for path in sorted(blocks.glob("*.jsonl")) for row in read_jsonl(path, Scored))


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


# ---- candidates ------------------------------------------------------------------------------------------------------


def _candidates(
    config: PreferencesConfig, path: Path, asked: Sequence[Question], search: CorpusSearch, kept: Path
) -> list[Candidates]:
    """The passages of each question, found or read from the file `kept`."""
    from trainers.retrieval.known import gold_places

    if not kept.is_file():
        gold = gold_places(path, asked, search.corpus)
        write_jsonl(kept, _find(config, asked, gold, search))
    return list(read_jsonl(kept, Candidates))


def _find(
    config: PreferencesConfig, asked: Sequence[Question], gold: dict[str, int], search: CorpusSearch
) -> Iterator[Candidates]:
    for start in range(0, len(asked), _QUESTIONS_AT_ONCE):
        some = asked[start : start + _QUESTIONS_AT_ONCE]
        found = search.search([question.text for question in some], config.num_candidates)
        for number, (question, row) in enumerate(zip(some, found.positions.tolist(), strict=True), start):
            own = {gold[name] for name in question.gold_passages}
            best = [place for place in row if place >= 0]
            if config.with_gold:  # in place of the worst others
                missing = [gold[name] for name in question.gold_passages if gold[name] not in best]
                num_others = max(0, config.num_candidates - len(own))
                others = set([place for place in best if place not in own][:num_others])
                best = [*(place for place in best if place in own or place in others), *missing]
            yield Candidates(number, tuple(best), tuple(place in own for place in best))


# ---- scores ----------------------------------------------------------------------------------------------------------


def _score_blocks(
    config: PreferencesConfig,
    asked: Sequence[Question],
    candidates: Sequence[Candidates],
    corpus: Corpus,
    reader: Reader,
    generator: Agent,
    out: Path,
) -> None:
    """A file per block of questions below `out`; those that are there already stay."""
    size = config.questions_per_block
    starts = [start for start in range(0, len(candidates), size) if not (out / f"{start:09}.jsonl").is_file()]
    if len(starts) * size < len(candidates):
        logger.info("%s: %d questions or more are scored already", out, len(candidates) - len(starts) * size)
    for start in progress(starts, "scoring passages, block"):
        block = [_shown(asked[one.question], one, corpus) for one in candidates[start : start + size]]
        write_jsonl(out / f"{start:09}.jsonl", score_passages(block, reader, generator))


def _shown(question: Question, candidates: Candidates, corpus: Corpus) -> Shown:
    """Each text once, although the corpus may have it twice."""
    by_text: dict[str, tuple[Passage, bool]] = {}
    for place, gold in zip(candidates.passages, candidates.gold, strict=True):
        passage = corpus[place]
        _, before = by_text.get(passage.contents, (None, False))
        by_text[passage.contents] = passage, gold or before
    return Shown(question, tuple(p for p, _ in by_text.values()), tuple(gold for _, gold in by_text.values()))


# ---- command line ----------------------------------------------------------------------------------------------------


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="questions with answers: lines with id, text, answers")
    parser.add_argument("--corpus", type=Path, required=True, help="passages: lines with id, title and text")
    parser.add_argument("--retriever", default="bm25", help="bm25 (default), an embedding model, or an index folder")
    parser.add_argument(
        "--reader", required=True, help="a language model's name or folder, or a served one: http://HOST:8000/v1#NAME"
    )
    parser.add_argument("--out", type=Path, required=True, help="the training file to write")
    parser.add_argument("--work", type=Path, help="a folder that keeps what was embedded and scored, for later runs")


def _reader_settings(options: argparse.Namespace) -> list[str]:
    """--reader as settings."""
    if not options.reader.startswith(("http://", "https://")):
        return ["reader.type=pretrained", f"reader.name={options.reader}"]
    base_url, _, name = options.reader.partition("#")
    return ["reader.type=served", f"reader.base_url={base_url}", f"reader.name={name}"]


def _run(config: PreferencesConfig, options: argparse.Namespace) -> dict[str, float]:
    assert not isinstance(config.reader, OwnReader)
    reader = open_reader(config.reader, device=options.device, tokens_per_forward=config.tokens_per_forward)
    return score_questions(
        config,
        reader,
        build_chain(AgentsConfig()).agents[-1],
        questions=options.data,
        corpus=options.corpus,
        retriever=options.retriever,
        out=options.out,
        work=options.work,
        seed=options.seed,
        device=options.device,
    )


if __name__ == "__main__":
    from trainers.command_line import main

    raise SystemExit(main("trainers.preferences", __doc__, PreferencesConfig, _arguments, _run, _reader_settings))
