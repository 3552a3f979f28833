"""The embedding model: fine-tuned on (question, gold passage) pairs, every other passage of the batch a negative.

    train(RetrieverConfig(), prepared=…, seed=0, out=Path("models/retriever"))   # writes out/model

The scratch encoder is a small BERT over whole words. Mean pooling over random word vectors already measures word
overlap, so training starts from a usable retriever and has to learn only which words matter.
"""

from __future__ import annotations

import logging
import math
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jointrag.config import PretrainedEncoder, RetrieverConfig, ScratchEncoder
from jointrag.encoders import Encoder, no_bars_in_logs
from jointrag.jsonl import read_jsonl
from jointrag.tracking import NoTracker, Tracker
from jointrag.types import Passage, Question
from trainers.scratch import word_level_tokenizer

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)
RECALL_AT = (1, 5, 10)
# Recall is a check here, not a result: the first dev questions, among their gold passages and a sample of the others.
_EVALUATION_QUESTIONS = 1_000
_EVALUATION_PASSAGES = 10_000


def train(
    config: RetrieverConfig,
    *,
    prepared: Path,
    seed: int,
    out: Path,
    device: str = "auto",
    tracker: Tracker = NoTracker(),
) -> dict[str, float]:
    """Train on questions/source.jsonl and write out/model; with config.train off, write the encoder as it is.

    Returns retriever/recall@k on the dev questions, the same before training as retriever/start_recall@k, and
    retriever/loss. Raises ValueError when a question names a gold passage that the corpus does not have, or when no
    question names one.
    """
    from transformers import set_seed

    questions_path = prepared / "questions" / "source.jsonl"
    passages = {passage.id: passage for passage in read_jsonl(prepared / "corpus.jsonl", Passage)}
    pairs = read_pairs(questions_path, passages) if config.train else []
    if config.train and not pairs:
        raise ValueError(
            f"{questions_path}: no question has gold_passages, so there is nothing to train the retriever on; "
            "add them, or set retriever.train=false (and, in a preset that starts from scratch, "
            "agent_data.num_reading_examples=0 and warm_start.reading_epochs=0)"
        )
    texts = [passage.contents for passage in passages.values()] + [question for question, _ in pairs]
    if config.max_pairs is not None and len(pairs) > config.max_pairs:
        pairs = random.Random(seed).sample(pairs, config.max_pairs)

    no_bars_in_logs()
    set_seed(seed)
    encoder = Encoder(make_model(config.encoder, texts, device))
    dev = read_dev(prepared / "questions" / "dev.jsonl", passages)
    sample = _sample(passages, dev, seed)
    metrics = {"retriever/pairs": float(len(pairs))}
    start = recall(encoder, dev, sample)
    if config.train:
        metrics |= {f"retriever/start_{name}": value for name, value in start.items()}
        metrics["retriever/loss"] = fit(encoder, pairs, config, seed, out, tracker)
        metrics |= {f"retriever/{name}": value for name, value in recall(encoder, dev, sample).items()}
    else:
        metrics |= {f"retriever/{name}": value for name, value in start.items()}
    encoder.model.save(str(out / "model"), create_model_card=False)
    return metrics


# ---- data ------------------------------------------------------------------------------------------------------------


def read_pairs(path: Path, passages: dict[str, Passage]) -> list[tuple[str, str]]:
    """(question, contents of a gold passage): one pair per gold passage."""
    pairs = []
    for question in read_jsonl(path, Question):
        for passage_id in question.gold_passages:
            if passage_id not in passages:
                raise ValueError(f"{path}: question {question.id!r}: no passage {passage_id!r} in the corpus")
            pairs.append((question.text, passages[passage_id].contents))
    return pairs


def read_dev(path: Path, passages: dict[str, Passage]) -> list[Question]:
    """The dev questions whose gold passages are known."""
    questions = [question for question in read_jsonl(path, Question) if question.gold_passages][:_EVALUATION_QUESTIONS]
    for question in questions:
        for passage_id in question.gold_passages:
            if passage_id not in passages:
                raise ValueError(f"{path}: question {question.id!r}: no passage {passage_id!r} in the corpus")
    return questions


def _sample(passages: dict[str, Passage], dev: list[Question], seed: int) -> list[Passage]:
    gold = {passage_id for question in dev for passage_id in question.gold_passages}
    others = [passage_id for passage_id in passages if passage_id not in gold]
    room = max(0, _EVALUATION_PASSAGES - len(gold))
    if len(others) > room:
        others = random.Random(seed).sample(others, room)
    return [passages[passage_id] for passage_id in (*gold, *others)]


def recall(encoder: Encoder, questions: list[Question], passages: list[Passage]) -> dict[str, float]:
    """recall@1, @5, @10: the share of gold passages among the k best of `passages`, mean over questions.

    Nothing without questions.
    """
    if not questions:
        return {}
    positions = {passage.id: position for position, passage in enumerate(passages)}
    passage_vectors = encoder.encode([passage.contents for passage in passages], kind="passage")
    question_vectors = encoder.encode([question.text for question in questions], kind="query")
    best = np.argsort(-question_vectors @ passage_vectors.T, axis=1, kind="stable")[:, : max(RECALL_AT)].tolist()
    gold = [{positions[passage_id] for passage_id in question.gold_passages} for question in questions]
    return {
        f"recall@{k}": float(
            np.mean([len(want & set(row[:k])) / len(want) for want, row in zip(gold, best, strict=True)])
        )
        for k in RECALL_AT
    }


# ---- model -----------------------------------------------------------------------------------------------------------


def make_model(config: ScratchEncoder | PretrainedEncoder, texts: list[str], device: str) -> SentenceTransformer:
    """The encoder to start from. A scratch one takes its vocabulary from `texts` and torch's current random state."""
    from sentence_transformers import SentenceTransformer

    target = None if device == "auto" else device
    if isinstance(config, PretrainedEncoder):
        try:
            model = SentenceTransformer(config.name, device=target)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"retriever.encoder.name={config.name!r} cannot be loaded ({error}); give a folder or a Hugging Face "
                "name, and download the model beforehand where there is no network"
            ) from None
        model.max_seq_length = min(config.max_length, model.max_seq_length or config.max_length)
        return model
    return SentenceTransformer(modules=_scratch_modules(config, texts), device=target)


def _scratch_modules(config: ScratchEncoder, texts: list[str]) -> list[Any]:
    import torch
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    tokenizer = word_level_tokenizer(texts, ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], lowercase=True)
    tokenizer.model_max_length = config.max_length
    bert = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=4 * config.hidden_size,
        max_position_embeddings=config.max_length,
        pad_token_id=0,
        hidden_dropout_prob=0.0,  # one short epoch does not overfit
        attention_probs_dropout_prob=0.0,
    )
    model = BertModel(bert)
    with torch.no_grad():  # at the start a word's vector is the word alone, so that overlap is what similarity measures
        model.embeddings.position_embeddings.weight.zero_()
        model.embeddings.token_type_embeddings.weight.zero_()
    with tempfile.TemporaryDirectory() as folder:  # Transformer takes a folder, not a model
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, max_seq_length=config.max_length)
    return [transformer, Pooling(config.hidden_size, "mean"), Normalize()]


# ---- training --------------------------------------------------------------------------------------------------------


def fit(
    encoder: Encoder,
    pairs: list[tuple[str, str]],
    config: RetrieverConfig,
    seed: int,
    out: Path,
    tracker: Tracker,
) -> float:
    """Train in place; returns the mean loss of the last logged steps."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
    from transformers import PrinterCallback

    class Trainer(SentenceTransformerTrainer):
        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """None: it samples the data for a card that is not written."""

    model = encoder.model
    data = Dataset.from_dict({"question": [q for q, _ in pairs], "passage": [p for _, p in pairs]})
    num_steps = math.ceil(len(pairs) / config.batch_size * config.num_epochs)
    checkpoints = out / ".trainer"  # the trainer wants a folder; nothing is kept in it
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=config.num_epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        batch_sampler=BatchSamplers.NO_DUPLICATES,  # a passage that is gold for two questions is no negative
        prompts={"question": encoder.prompt("query"), "passage": encoder.prompt("passage")},
        logging_steps=max(1, num_steps // 20),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=model.device.type == "cpu",
    )
    log = _log_callback(tracker)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        loss=MultipleNegativesRankingLoss(model, scale=1 / config.temperature),
        callbacks=[log],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    shutil.rmtree(checkpoints, ignore_errors=True)
    return log.last_loss


def _log_callback(tracker: Tracker) -> Any:
    from transformers import TrainerCallback

    class LogCallback(TrainerCallback):
        """One line per log step in the log, one point in the tracker."""

        last_loss = math.nan

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
            if logs is None or "loss" not in logs:
                return
            self.last_loss = float(logs["loss"])
            rate = float(logs["learning_rate"])
            tracker.log_metrics(
                {"retriever/step_loss": self.last_loss, "retriever/learning_rate": rate}, state.global_step
            )
            logger.info("retriever %d/%d · loss %.3f", state.global_step, state.max_steps, self.last_loss)

    return LogCallback()
