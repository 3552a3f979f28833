"""The same systems on several datasets: what was learned on one, shown on the others.

matrix = build({"hotpotqa": Path("runs/evaluate/KEY"), "musique": Path("runs/evaluate/KEY2")}, trained_on)
print(markdown(table(matrix)))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from evaluation.measures import question_scores
from evaluation.scores import Matrix, MatrixCell, Scores
from evaluation.sentences import LABELS
from evaluation.significance import paired_bootstrap
from evaluation.tables import Table, points
from jointrag.artifacts import read_manifest
from jointrag.jsonl import read_jsonl
from jointrag.types import Episode


def build(
    evaluations: Mapping[str, Path],
    in_domain: Mapping[str, Mapping[str, bool | None]],
    *,
    num_resamples: int,
    seed: int,
) -> Matrix:
    """From finished evaluations by dataset. `in_domain`: by model, then by dataset, whether it was trained on that."""
    scores = {name: Scores.read(path / "scores.json") for name, path in evaluations.items()}
    systems = dict.fromkeys(system for found in scores.values() for system in found.systems)
    cells: dict[str, dict[str, MatrixCell]] = {system: {} for system in systems}
    for dataset, found in scores.items():
        for name, system in found.systems.items():
            episodes = list(read_jsonl(evaluations[dataset] / "predictions" / f"{name}.jsonl", Episode))
            f1 = paired_bootstrap(question_scores(episodes)["f1"], np.random.default_rng(seed), num_resamples)
            cells[name][dataset] = MatrixCell(
                num_questions=len(episodes),
                f1=system.overall.f1,
                low=f1.low,
                high=f1.high,
                em=system.overall.em,
                accuracy=system.overall.accuracy,
                in_domain=in_domain.get(system.model, {}).get(dataset),
            )
    return Matrix(
        datasets={name: found.num_questions for name, found in scores.items()},
        cells=cells,
        scores={name: str(path / "scores.json") for name, path in evaluations.items()},
    )


def table(matrix: Matrix) -> Table:
    """F1 by system and dataset, with its interval; * where the system was trained on the dataset."""
    rows = [
        (LABELS.get(system, system), *(_cell(row.get(dataset)) for dataset in matrix.datasets))
        for system, row in matrix.cells.items()
    ]
    return Table(
        "F1 of every system on every dataset, in percent (95 % bootstrap interval)",
        ("system", *(f"{name} ({count:,})" for name, count in matrix.datasets.items())),
        tuple(rows),
        "In brackets after the name: the number of questions. * trained on this dataset.",
    )


def data_sets_of(artifact: Path) -> frozenset[str]:
    """Fingerprints of the prepared data that a finished stage output was made from, as far as its records are there."""
    found: set[str] = set()
    for source in read_manifest(artifact)["inputs"].values():
        try:
            stage = read_manifest(Path(source["path"]))["stage"]
        except ValueError:  # deleted since, or not made here
            continue
        found |= {source["fingerprint"]} if stage == "prepare" else data_sets_of(Path(source["path"]))
    return frozenset(found)


def _cell(cell: MatrixCell | None) -> str:
    if cell is None:
        return "–"
    mark = "*" if cell.in_domain else ""
    return f"{points(cell.f1)}{mark} ({points(cell.low)} to {points(cell.high)})".replace(" to", "\u00a0to")
