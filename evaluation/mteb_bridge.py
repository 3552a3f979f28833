"""mteb's tasks for our models, and our data as mteb's tasks. The command line is evaluation.mteb_tasks.

    [task] = named_tasks(["SciFact"])
    load_data(task)
    evaluate(load_model("models/retriever/model", "embedding"), task)      # [TaskScores(…)]
    evaluate(model, local_tasks(Judged.read(Path("dev.jsonl")), "dev")[0])

mteb has wrappers for all three of sentence-transformers' kinds; what is added here is said where it is done.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.judged import Judged
from jointrag.encoders import Encoder

if TYPE_CHECKING:
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

METRICS = ("ndcg@10", "map@10", "map@1000", "mrr@10", "recall@1", "recall@5", "recall@10")
_DOCUMENTS_AT_ONCE = 4_000  # with a vector per token: 600 MB at 300 tokens of 128 dimensions; mteb's 50,000 are 8 GB


@dataclass(frozen=True, slots=True)
class TaskScores:
    """One task's scores, 0 to 1, by the names of evaluation.retrieval, as mteb computed and rounded them."""

    task: str
    subset: str  # "default", or a language of a task that has several
    split: str
    data: str  # which data set, and which version of it
    main: str  # the metric that the benchmark goes by
    scores: dict[str, float]


# ---- tasks -----------------------------------------------------------------------------------------------------------


def named_tasks(names: Sequence[str]) -> list[AbsTaskRetrieval]:
    """mteb's tasks, without their data; a set of tasks (CQADupstackRetrieval) as its parts.

    Raises ValueError for a name that mteb does not know, and for a task that is no retrieval or reranking of texts.
    """
    mteb = import_mteb()
    from mteb.abstasks.aggregated_task import AbsTaskAggregate
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    tasks = []
    for name in names:
        try:
            task = mteb.get_task(name)
        except KeyError as error:
            reason = str(error.args[0]).removeprefix("KeyError: ")
            raise ValueError(f"mteb has no task of that name: {reason}") from None
        for part in task.metadata.tasks if isinstance(task, AbsTaskAggregate) else [task]:
            if not isinstance(part, AbsTaskRetrieval) or set(part.metadata.modalities) != {"text"}:
                raise ValueError(
                    f"task {name}: {part.metadata.type} of {', '.join(part.metadata.modalities)}; name a task that "
                    "retrieves or reranks texts"
                )
            tasks.append(part)
    return tasks


def load_data(task: AbsTaskRetrieval) -> None:
    """Raises ValueError for data that is neither in the cache nor can be downloaded."""
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.constants import HF_HOME

    try:
        task.load_data()
    except (ConnectionError, DatasetNotFoundError) as error:
        name, path = task.metadata.name, task.metadata.dataset["path"]
        raise ValueError(
            f"task {name}: its data set {path} is not in {HF_HOME} and cannot be downloaded ({error}). Where there is "
            f"a network, run `python -c \"import mteb; mteb.get_task('{name}').load_data()\"` and copy the folders hub "
            f"and datasets of its {HF_HOME} into the one here (HF_HOME says where it is), or evaluate on files of your "
            "own (--data)"
        ) from None


def local_tasks(judged: Judged, name: str, version: str = "") -> list[AbsTaskRetrieval]:
    """`judged` as two of mteb's tasks, NAME-reranking (only with more than one candidate a query) and NAME-retrieval.

    Raises ValueError for gains that are not whole numbers, which trec_eval cannot take.
    """
    if any(gain != int(gain) for row in judged.gold for gain in row.values()):
        raise ValueError(f"{name}: mteb takes whole numbers as gains; say from which score on a text is relevant")
    wide = any(len(row) > 1 for row in judged.candidates)
    return [_local_task(judged, name, version, reranking) for reranking in ((True, False) if wide else (False,))]


def _local_task(judged: Judged, name: str, version: str, reranking: bool) -> AbsTaskRetrieval:
    mteb = import_mteb()
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

    class LocalTask(AbsTaskRetrieval):
        metadata = mteb.TaskMetadata(
            name=f"{name}-{'reranking' if reranking else 'retrieval'}",
            description="Queries with their positives and negatives, from a local file.",
            dataset={"path": name, "revision": version},
            type="Reranking" if reranking else "Retrieval",
            category="t2t",
            eval_langs=["und-Zyyy"],
            main_score="map_at_1000" if reranking else "ndcg_at_10",
        )

    documents = [f"d{i:08d}" for i in range(len(judged.corpus))]
    queries = [f"q{i:08d}" for i in range(len(judged.queries))]
    gold = [{documents[i]: int(gain) for i, gain in row.items()} for row in judged.gold]
    candidates = [[documents[i] for i in row] for row in judged.candidates]
    data = RetrievalSplitData(
        corpus=Dataset.from_dict({"id": documents, "text": list(judged.corpus)}),
        queries=Dataset.from_dict({"id": queries, "text": list(judged.queries)}),
        relevant_docs=dict(zip(queries, gold, strict=True)),
        top_ranked=dict(zip(queries, candidates, strict=True)) if reranking else None,
    )
    task = LocalTask()
    task.dataset = {"default": {"test": data}}
    task.data_loaded = True
    return task


# ---- running them ----------------------------------------------------------------------------------------------------


def evaluate(
    model: Encoder | MultiVectorEncoder | CrossEncoder,
    task: AbsTaskRetrieval,
    *,
    batch_size: int = 32,
    first_stage: Encoder | None = None,
    num_candidates: int = 100,
) -> list[TaskScores]:
    """Scores of `model` on `task`, whose data is loaded: one for each subset and split.

    With `first_stage`, that model's `num_candidates` best are what is ranked, where the task does not name candidates.
    Raises ValueError for a reranker on a task without candidates.
    """
    if not _has_candidates(task):
        if first_stage is not None:
            with tempfile.TemporaryDirectory() as folder:
                _evaluate(first_stage, task, batch_size, Path(folder))
                task.convert_to_reranking(folder, num_candidates)
        elif hasattr(model, "predict"):
            raise ValueError(
                f"task {task.metadata.name}: a reranker needs candidates, and this task has none; give an embedding "
                "model that finds them (--first-stage)"
            )
    main = _our_name(task.metadata.main_score)
    return [
        TaskScores(
            task=task.metadata.name,
            subset=row["hf_subset"],
            split=split,
            data=data_of(task),
            main=main,
            scores={name: float(row[key]) for key in row if (name := _our_name(key)) in (*METRICS, main)},
        )
        for split, rows in _evaluate(model, task, batch_size).items()
        for row in rows
    ]


def _evaluate(
    model: Encoder | MultiVectorEncoder | CrossEncoder,
    task: AbsTaskRetrieval,
    batch_size: int,
    predictions: Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    mteb = import_mteb()
    from mteb.models.sentence_transformer_wrapper import (
        CrossEncoderWrapper,
        MultiVectorWrapper,
        SentenceTransformerEncoderWrapper,
    )

    if isinstance(model, Encoder):
        wrapped: Any = SentenceTransformerEncoderWrapper(model.model)
    elif hasattr(model, "predict"):
        wrapped = CrossEncoderWrapper(model)  # type: ignore[arg-type]
    else:
        wrapped = MultiVectorWrapper(model, corpus_chunk_size=_DOCUMENTS_AT_ONCE)  # type: ignore[arg-type]
    with _scores_that_differ(model):
        found = mteb.evaluate(
            wrapped,
            task,
            cache=None,
            co2_tracker=False,
            prediction_folder=predictions,
            encode_kwargs={"batch_size": batch_size, "show_progress_bar": sys.stderr.isatty()},
            show_progress_bar=False,
        )
    return found.task_results[0].scores


@contextmanager
def _scores_that_differ(model: Any) -> Iterator[None]:
    """A cross-encoder's logits in place of probabilities: in float32 these are all 1 from a logit of 17 on."""
    if not hasattr(model, "activation_fn"):
        yield
        return
    from torch.nn import Identity

    before, model.activation_fn = model.activation_fn, Identity()
    try:
        yield
    finally:
        model.activation_fn = before


def _has_candidates(task: AbsTaskRetrieval) -> bool:
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    return all(data["top_ranked"] is not None for splits in task.dataset.values() for data in splits.values())


def data_of(task: AbsTaskRetrieval) -> str:
    """TaskScores.data."""
    return f"{task.metadata.dataset['path']}@{task.metadata.dataset['revision'][:12]}"


def _our_name(key: str) -> str:
    """map_at_1000 → map@1000."""
    return key.replace("_at_", "@")


def import_mteb() -> Any:
    try:
        import mteb
    except ImportError as error:
        raise ValueError(f"MTEB tasks need mteb ({error}): pip install 'jointrag[mteb]'") from None
    return mteb
