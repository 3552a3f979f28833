"""MTEB's own tasks, and tasks made of one's own files, for embedding models, late-interaction models and rerankers.

    python -m evaluation.mteb_tasks --model models/reranker/model --kind reranker --out reranker.json \\
        --tasks T2Reranking MMarcoReranking CMedQAv1-reranking CMedQAv2-reranking
    python -m evaluation.mteb_tasks --model … --kind embedding --out mine.json --data dev.jsonl
    python -m evaluation.mteb_tasks --model … --kind reranker --out scifact.json --tasks SciFact --first-stage EMBEDDER

Any retrieval or reranking task that mteb knows by name (`mteb available-tasks`), the BEIR sets among them. A file in
the training format becomes two tasks: ranking each query's own positives and negatives, and finding the positives among
all texts of the file. A reranker needs candidates: a retrieval task gets them from a --first-stage embedding model.

The scores are written after each task, and the same command goes on with those that are missing. mteb keeps results by
a model's name, which says nothing about a folder that is trained into again, so its own cache stays unused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from pydantic import TypeAdapter, ValidationError

from evaluation.judged import Judged
from evaluation.mteb_bridge import (
    METRICS,
    TaskScores,
    data_of,
    evaluate,
    import_mteb,
    load_data,
    local_tasks,
    named_tasks,
)
from evaluation.rankings import ModelKind, load_model
from evaluation.tables import Table, markdown, points
from jointrag.encoders import Encoder, fingerprint
from jointrag.jsonl import write_atomically

if TYPE_CHECKING:
    from mteb.abstasks.retrieval import AbsTaskRetrieval

logger = logging.getLogger("evaluation.mteb_tasks")  # as a script, this module is called __main__


@dataclass(frozen=True, slots=True)
class Run:
    """What the scores hold for: another value of any, and a task is run again."""

    model: str
    fingerprint: str  # of the model's files; "" for a model that is not a folder
    kind: ModelKind
    mteb: str
    first_stage: str = ""
    first_stage_fingerprint: str = ""
    num_candidates: int = 0  # from the first stage


@dataclass(frozen=True, slots=True)
class Results:
    """What a results file holds."""

    run: Run
    tasks: tuple[TaskScores, ...] = ()


def table(results: Results) -> Table:
    """Tasks × METRICS in percent; `main` is the benchmark's own metric for the task."""
    return Table(
        f"{results.run.model} ({results.run.kind}), mteb {results.run.mteb}, in percent",
        ("task", "main", *METRICS),
        tuple(
            (
                row.task if row.subset == "default" else f"{row.task} {row.subset}",
                f"{points(row.scores[row.main])} ({row.main})",
                *(points(row.scores.get(metric)) for metric in METRICS),
            )
            for row in results.tasks
        ),
        f"Of the {results.run.num_candidates} best of {results.run.first_stage}, where a task has no candidates."
        if results.run.first_stage
        else "",
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.mteb_tasks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", required=True, help="a model folder, or a Hugging Face name")
    parser.add_argument("--kind", required=True, choices=get_args(ModelKind))
    parser.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help="tasks by mteb's names")
    parser.add_argument("--data", nargs="+", default=[], type=Path, metavar="FILE", help="files in the training format")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="scores as JSON; the table beside it, .md"
    )
    parser.add_argument(
        "--relevant-from", type=float, metavar="SCORE", help="in --data with scores: from which on a text is relevant"
    )
    parser.add_argument("--first-stage", metavar="MODEL", help="an embedding model that finds the candidates")
    parser.add_argument("--num-candidates", type=int, default=100, help="how many of them (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="texts or pairs (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.tasks and not args.data:
        parser.error("nothing to evaluate on: give --tasks, --data or both")
    if args.out.suffix == ".md":
        parser.error("--out is for the scores as JSON; the table gets the same name with .md")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logger.setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning, module="mteb")
    try:
        print(markdown(table(run(args))))
    except (ValueError, OSError) as error:  # a mistake, a place that cannot be written
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; the same command goes on after the last task that was done", file=sys.stderr)
        sys.exit(130)


def run(args: argparse.Namespace) -> Results:
    """Every task that the results file lacks; the file and its table are written after each."""
    mteb = import_mteb()
    this = Run(
        model=args.model,
        fingerprint=_fingerprint(args.model),
        kind=args.kind,
        mteb=mteb.__version__,
        first_stage=args.first_stage or "",
        first_stage_fingerprint=_fingerprint(args.first_stage) if args.first_stage else "",
        num_candidates=args.num_candidates if args.first_stage else 0,
    )
    results = _read(args.out, this)
    done = {(row.task, row.data) for row in results.tasks}
    tasks = [task for task in _tasks(args) if (task.metadata.name, data_of(task)) not in done]
    for task in tasks:  # all of them before the first is run: what is missing should not show after hours
        load_data(task)
    model = load_model(args.model, args.kind, args.device) if tasks else None
    first_stage = load_model(args.first_stage, "embedding", args.device) if tasks and args.first_stage else None
    for task in tasks:
        assert model is not None and (first_stage is None or isinstance(first_stage, Encoder))
        logger.info("%s …", task.metadata.name)
        rows = evaluate(
            model, task, batch_size=args.batch_size, first_stage=first_stage, num_candidates=args.num_candidates
        )
        results = replace(results, tasks=(*results.tasks, *rows))
        write_atomically(args.out, json.dumps(asdict(results), ensure_ascii=False, indent=1) + "\n")
        write_atomically(args.out.with_suffix(".md"), markdown(table(results)) + "\n")
    return results


def _tasks(args: argparse.Namespace) -> list[AbsTaskRetrieval]:
    tasks = named_tasks(args.tasks)
    for path in args.data:
        judged = Judged.read(path, relevant_from=args.relevant_from)
        version = hashlib.sha256(path.read_bytes() + str(args.relevant_from).encode()).hexdigest()
        tasks += local_tasks(judged, path.stem, version)
    return tasks


def _fingerprint(model: str) -> str:
    return fingerprint(Path(model)) if Path(model).is_dir() else ""


def _read(path: Path, run: Run) -> Results:
    """The results so far, if they are this run's."""
    if not path.is_file():
        return Results(run)
    try:
        found = TypeAdapter(Results).validate_json(path.read_bytes())
    except ValidationError:
        raise ValueError(f"{path}: is there and holds no MTEB results; choose another name for --out") from None
    if found.run != run or not run.fingerprint:
        logger.warning("%s: results of another model or with other settings, which will be replaced", path)
        return Results(run)
    return found


if __name__ == "__main__":
    main()
