"""Models × datasets, as in the READMEs of retrieval models: one row per model, a column per dataset, their mean last.

    python -m evaluation.model_table ours.json bge-base=results/BAAI__bge-reranker-base/REVISION --out table.md

A row is the results file of `evaluation.mteb_tasks`, or a folder of mteb's own results (one JSON file per task, as in
its results repository). NAME=PATH says what the model is called there. --metric takes another metric than the one
each benchmark goes by, by the names of evaluation.retrieval. A model that lacks a dataset has no mean.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evaluation.mteb_tasks import Results
from evaluation.tables import Table, markdown, points
from jointrag.jsonl import write_atomically

MAIN = "main"
SPLITS = ("test", "dev", "validation")  # the first that a task has


def table(models: Mapping[str, Mapping[str, float]], metric: str = MAIN) -> Table:
    """`models`: name → dataset → score, 0 to 1. The best of each column is marked."""
    datasets = list(dict.fromkeys(dataset for scores in models.values() for dataset in scores))
    columns = {dataset: [scores.get(dataset) for scores in models.values()] for dataset in datasets}
    means = [fmean(scores.values()) if len(scores) == len(datasets) else None for scores in models.values()]
    marked = [_marked(values) for values in (*columns.values(), means)]
    what = "each benchmark's own metric" if metric == MAIN else metric
    return Table(
        f"Models by dataset: {what}, in percent",
        ("model", *datasets, "mean"),
        tuple((name, *(column[i] for column in marked)) for i, name in enumerate(models)),
        "*: best of the column." if len(models) > 1 else "",
    )


def _marked(values: list[float | None]) -> list[str]:
    best = max((value for value in values if value is not None), default=None)
    mark = len(values) > 1
    return [points(value) + ("*" if mark and value is not None and value == best else "") for value in values]


def read(path: Path, metric: str = MAIN) -> tuple[str, dict[str, float]]:
    """The model's name and its scores by dataset. Raises ValueError naming the file."""
    return _mteb_folder(path, metric) if path.is_dir() else _own_file(path, metric)


def _own_file(path: Path, metric: str) -> tuple[str, dict[str, float]]:
    try:
        results = TypeAdapter(Results).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; evaluate the model first: python -m evaluation.mteb_tasks") from None
    except ValidationError:
        raise ValueError(f"{path}: no results of evaluation.mteb_tasks; for mteb's own name their folder") from None
    found: dict[str, float] = {}
    for row in results.tasks:
        name = row.task if row.subset == "default" else f"{row.task} {row.subset}"
        key = row.main if metric == MAIN else metric
        if key not in row.scores:
            raise ValueError(f"{path}: {name} has no {key}; it has {', '.join(row.scores)}")
        found[name] = row.scores[key]
    return results.run.model, found


def _mteb_folder(path: Path, metric: str) -> tuple[str, dict[str, float]]:
    """Of several languages the mean, as mteb itself reports a task."""
    meta = path / "model_meta.json"
    name = json.loads(meta.read_text("utf-8")).get("name") if meta.is_file() else None
    key = "main_score" if metric == MAIN else metric.replace("@", "_at_")
    found: dict[str, float] = {}
    for file in sorted(path.glob("*.json")):
        content: Any = json.loads(file.read_text("utf-8"))
        if file == meta or "scores" not in content:
            continue
        split = next((split for split in SPLITS if split in content["scores"]), None)
        rows = content["scores"][split] if split else []
        if not rows or any(key not in row for row in rows):
            raise ValueError(f"{file}: no {key} of {' or '.join(SPLITS)}")
        found[content["task_name"]] = fmean(row[key] for row in rows)
    if not found:
        raise ValueError(f"{path}: no task's results in this folder; name the one with a JSON file per task")
    return str(name or path.name), found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.model_table", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("results", nargs="+", metavar="[NAME=]PATH", help="a results file, or a folder of mteb's")
    parser.add_argument("--metric", default=MAIN, help="main (each benchmark's own), map@10, ndcg@10 …")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the table as Markdown, too")
    args = parser.parse_args(argv)
    models: dict[str, dict[str, float]] = {}
    try:
        for text in args.results:
            given, _, where = text.rpartition("=")
            name, scores = read(Path(where), args.metric)
            if (given or name) in models:
                raise ValueError(f"{where}: a second model called {given or name}; give one a name: NAME={where}")
            models[given or name] = scores
        shown = markdown(table(models, args.metric))
        if args.out:
            write_atomically(args.out, shown + "\n")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(shown)


if __name__ == "__main__":
    main()
