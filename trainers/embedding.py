"""The embedding model: fine-tuned on (question, gold passage) pairs, or on a training file of one's own.

    train(RetrieverConfig(), prepared=…, seed=0, out=Path("models/retriever"))   # writes out/model
    train(RetrieverConfig(data=Path("train.jsonl"), held_out=0.1), prepared=None, seed=0, out=…)

This file brings model, data and measurement together; losses are in trainers/retrieval/losses.py, the loop in
trainers/retrieval/fit.py. Training that was interrupted goes on when it is started again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jointrag.config import PretrainedEncoder, RetrieverConfig, ScratchEncoder
from jointrag.encoders import Encoder, no_bars_in_logs
from jointrag.tracking import NoTracker, Tracker
from trainers.parallel import Team
from trainers.preferences import FILE as PREFERENCES
from trainers.retrieval.held_out import RECORDS
from trainers.retrieval.questions import Corpus, Held, held_out, read_dev, read_pairs, retrieval_metrics
from trainers.retrieval.records import Record, Records, open_records, write_records
from trainers.retrieval.teacher import TeacherTexts, open_teacher
from trainers.scratch import scratch_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from trainers.retrieval.fit import Evaluate, FitResult

logger = logging.getLogger(__name__)
MOST_TOKENS = 512  # of a text, unless more are asked for


def train(
    config: RetrieverConfig,
    *,
    prepared: Path | None,
    preferences: Path | None = None,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Train on config.data, or without it on what `preferences` (see trainers/preferences.py) or else
    prepared/questions/source.jsonl have, and write out/model; with config.train off, write the encoder as it is.

    Returns trainers.retrieval.questions.METRICS on the dev questions (or those held out) as retriever/recall@10 …, the
    same before training as retriever/start_recall@10 …, and retriever/loss. Raises ValueError when a question names a
    gold passage that the corpus does not have, when no question names one, and for a training file that is not right.
    """
    from transformers import set_seed

    from trainers.retrieval.backbone import autocast

    if prepared is None and config.data is None:
        raise ValueError("there is nothing to train the retriever on: set retriever.data to a training file")
    team = Team.join(device)
    corpus = Corpus(prepared and prepared / "corpus.jsonl")
    data = _open(config, prepared, preferences, corpus, out, team) if config.train else None
    texts = _texts(data, corpus) if isinstance(config.encoder, ScratchEncoder) else ()
    if config.held_out and isinstance(data, Records):
        data, kept = data.split(config.held_out, seed)
        held = held_out(kept, data, seed)
    elif prepared is not None:
        held = read_dev(prepared / "questions" / "dev.jsonl", corpus, seed)
    else:
        held = Held()
    if isinstance(data, Records) and config.max_pairs is not None and len(data) > config.max_pairs:
        data = data.select(random.Random(seed).sample(range(len(data)), config.max_pairs))

    no_bars_in_logs()
    set_seed(seed)
    encoder = Encoder(make_model(config, texts, device))

    def evaluate() -> dict[str, float]:
        with autocast(config, encoder.model.device.type):
            return retrieval_metrics(encoder, held)

    before = team.gather([evaluate()] if team.is_first else [])[0]
    if data is None:
        if team.is_first:
            encoder.model.save(str(out / "model"), create_model_card=False)
        return {"retriever/pairs": 0.0} | {f"retriever/{name}": value for name, value in before.items()}

    num_examples, result = _fit(
        config, encoder.model, data, seed, out, device, tracker, evaluate if held.questions else None
    )
    return (
        {"retriever/pairs": float(num_examples), "retriever/loss": result.loss}
        | {f"retriever/start_{name}": value for name, value in before.items()}
        | {f"retriever/{name}": value for name, value in result.metrics.items()}
    )


# ---- data ------------------------------------------------------------------------------------------------------------


def _open(
    config: RetrieverConfig, prepared: Path | None, preferences: Path | None, corpus: Corpus, out: Path, team: Team
) -> Records | TeacherTexts:
    file = config.data if preferences is None else preferences / PREFERENCES
    if file is not None:
        cache = out.parent / RECORDS
        if (teacher := config.teacher) is not None:
            return open_teacher(file, teacher.vectors, cache=cache, num_dims=teacher.num_dims, dtype=teacher.dtype)
        return open_records(file, cache=cache)
    assert prepared is not None
    path = prepared / "questions" / "source.jsonl"
    pairs = read_pairs(path, corpus.passages)
    if not pairs:
        raise ValueError(
            f"{path}: no question has gold_passages, so there is nothing to train the retriever on; "
            "add them, or set retriever.train=false (and, in a preset that starts from scratch, "
            "agent_data.num_reading_examples=0 and warm_start.reading_epochs=0)"
        )
    from trainers.retrieval.fit import CHECKPOINTS

    written = out / CHECKPOINTS / "pairs.jsonl"  # goes with the checkpoints
    if team.is_first:
        write_records(written, (Record(question, (text,)) for question, text in pairs))
    team.wait()
    return open_records(written, cache=out / CHECKPOINTS / "records")


def _texts(data: Records | TeacherTexts | None, corpus: Corpus) -> Iterator[str]:
    """All there is to take a vocabulary from."""
    yield from (passage.contents for passage in corpus.passages.values())
    if isinstance(data, TeacherTexts):
        yield from (data[0, i].text for i in range(len(data)))
    elif data is not None:
        for record in data:
            yield from (record.query, *record.positives, *record.negatives)


# ---- model -----------------------------------------------------------------------------------------------------------


def make_model(config: RetrieverConfig, texts: Iterable[str], device: str) -> SentenceTransformer:
    """The encoder to start from. A scratch one takes its vocabulary from `texts` and torch's current random state."""
    from sentence_transformers import SentenceTransformer

    from trainers.retrieval.backbone import check_length, load, weights

    encoder = config.encoder
    if isinstance(encoder, ScratchEncoder):
        return SentenceTransformer(modules=scratch_encoder(encoder, texts), device=None if device == "auto" else device)
    model = load(
        SentenceTransformer,
        encoder.name,
        "retriever.encoder.name",
        device=device,
        trust_remote_code=config.trust_remote_code,
        model_kwargs=weights(config),
    )
    check_length(model, encoder.max_length, "retriever.encoder.max_length", encoder.name)
    model.max_seq_length = encoder.max_length or min(model.max_seq_length or MOST_TOKENS, MOST_TOKENS)
    return model


def _fit(
    config: RetrieverConfig,
    model: SentenceTransformer,
    data: Records | TeacherTexts,
    seed: int,
    out: Path,
    device: str,
    tracker: Tracker,
    evaluate: Evaluate | None,
) -> tuple[int, FitResult]:
    """How many examples there are, and what training on them came to."""
    from sentence_transformers import SentenceTransformer

    from trainers.retrieval.backbone import load, prepare
    from trainers.retrieval.embedder import Distiller, Embedder, widen
    from trainers.retrieval.fit import fit
    from trainers.retrieval.groups import BatchesByLength, BatchesWithoutDuplicates, Groups

    widen(model, max(config.matryoshka_dims, default=0))
    order: Any = BatchesByLength  # where no text is another query's negative
    if isinstance(data, TeacherTexts):
        assert config.teacher is not None
        examples: Groups | TeacherTexts = data
        learner: Embedder | Distiller = Distiller(model, config, config.teacher, data.num_dims)
    else:
        by_scores = config.loss == "scores" or (config.loss == "auto" and data.scores == "all")
        if by_scores:
            examples = Groups(data, mode="all_texts", seed=seed, labels="scores", max_texts=config.max_texts)
        else:
            order = BatchesWithoutDuplicates
            examples = Groups(
                data,
                mode="one_positive",
                seed=seed,
                num_negatives=config.num_negatives,
                repeat_negatives=config.repeat_negatives,
            )
        guide = None
        if config.guide is not None:
            guide = load(SentenceTransformer, config.guide, "retriever.guide", device=device)
        learner = Embedder(model, config, "scores" if by_scores else "softmax", guide)
        logger.info("%s · %d examples", data.report, len(examples))
    name = config.encoder.name if isinstance(config.encoder, PretrainedEncoder) else "the scratch encoder"
    prepare(model, config, name)
    result = fit(
        learner,
        examples,
        config,
        seed=seed,
        out=out,
        tracker=tracker,
        evaluate=evaluate,
        name="retriever",
        order=order,
    )
    return len(examples), result
