"""An ablation's table: every row's trainings over seeds, and how far each row is from the full system.

    write(ablation, EvaluationConfig(), runs={"selector + generator.0": Path("runs/evaluate/KEY"), …}, out=…)

`runs` are finished evaluations by row and seed. ablation.json holds the numbers, ablation.md and ablation.html show
them. A row's difference to the full system is taken question by question, seed by seed: both answered the same
questions. Its interval draws anew which seeds there are and, within each, which questions (a two-level bootstrap:
Davison & Hinkley, Bootstrap Methods and their Application, section 3.8). With few seeds it is too narrow rather than
too wide, because so few can say little about the next one; with one it covers the choice of questions alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from evaluation import ablation_tables
from evaluation.ablation_data import Result, Row, Training
from evaluation.measures import question_scores
from evaluation.scores import Scores
from jointrag.ablations import Ablation, slug
from jointrag.config import EvaluationConfig
from jointrag.jsonl import read_jsonl, write_atomically
from jointrag.types import Episode


def write(ablation: Ablation, config: EvaluationConfig, *, runs: dict[str, Path], out: Path) -> dict[str, float]:
    """Write ablation.json, ablation.md and ablation.html into `out`.

    `runs`: evaluations by "row.seed", the same seeds for every row. Returns ablation/<row>/f1, /f1_spread, /delta_f1,
    /delta_f1_low and _high. Raises ValueError where two rows did not answer the same questions.
    """
    result = summarise(ablation, runs, num_resamples=config.num_bootstrap)
    write_atomically(out / "ablation.json", result.model_dump_json(indent=2) + "\n")
    write_atomically(out / "ablation.md", ablation_tables.as_markdown(result))
    write_atomically(out / "ablation.html", ablation_tables.as_html(result))
    return _metrics(result)


def summarise(ablation: Ablation, runs: Mapping[str, Path], *, num_resamples: int) -> Result:
    """The numbers of `write`, from the files of the evaluations."""
    found: dict[str, dict[int, Path]] = {}
    for name, path in runs.items():
        variant, _, seed = name.rpartition(".")
        found.setdefault(variant, {})[int(seed)] = path
    seeds = tuple(sorted(found[ablation.full]))
    answered = {seed: _answered(found[ablation.full][seed]) for seed in seeds}
    rows = []
    for variant, settings in ablation.variants.items():
        trainings = tuple(_training(seed, found[variant][seed]) for seed in seeds)
        difference: dict[str, float | None] = dict.fromkeys(("delta", "delta_spread", "low", "high"))
        if variant != ablation.full:
            per_seed = [_differences(found[variant][seed], answered[seed]) for seed in seeds]
            low, high = two_level_interval(per_seed, np.random.default_rng(0), num_resamples)
            means = [float(values.mean()) for values in per_seed]
            difference = {"delta": fmean(means), "delta_spread": _spread(means), "low": low, "high": high}
        rows.append(
            Row(
                name=variant,
                settings=settings,
                trainings=trainings,
                warm_start_f1=fmean(t.warm_start_f1 for t in trainings),
                f1=fmean(t.f1 for t in trainings),
                f1_spread=_spread([t.f1 for t in trainings]),
                em=fmean(t.em for t in trainings),
                accuracy=fmean(t.accuracy for t in trainings),
                **difference,
            )
        )
    num_questions = len(answered[seeds[0]])
    return Result(name=ablation.name, about=ablation.about, seeds=seeds, num_questions=num_questions, rows=tuple(rows))


def two_level_interval(
    differences: Sequence[NDArray[np.float64]], rng: np.random.Generator, num_resamples: int
) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over seeds of each seed's mean difference [questions]."""
    means = np.empty(num_resamples)
    for i in range(num_resamples):
        drawn = [differences[seed] for seed in rng.integers(0, len(differences), len(differences))]
        means[i] = np.mean([values[rng.integers(0, len(values), len(values))].mean() for values in drawn])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _training(seed: int, evaluation: Path) -> Training:
    systems = Scores.read(evaluation / "scores.json").systems
    after = systems["mappo"].overall
    return Training(
        seed=seed,
        warm_start_f1=systems["warm_start"].overall.f1,
        f1=after.f1,
        em=after.em,
        accuracy=after.accuracy,
        seconds=systems["mappo"].seconds,
    )


def _answered(evaluation: Path) -> dict[str, float]:
    """F1 of the jointly trained system by question id."""
    episodes = list(read_jsonl(evaluation / "predictions" / "mappo.jsonl", Episode))
    scores = question_scores(episodes)["f1"]
    return {episode.question.id: float(score) for episode, score in zip(episodes, scores, strict=True)}


def _differences(evaluation: Path, full: Mapping[str, float]) -> NDArray[np.float64]:
    ours = _answered(evaluation)
    if ours.keys() != full.keys():
        raise ValueError(f"{evaluation}: not the questions that the full system answered; evaluate both again")
    return np.array([ours[question] - full[question] for question in full])


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _metrics(result: Result) -> dict[str, float]:
    metrics: dict[str, float | None] = {}
    for row in result.rows:
        where = f"ablation/{slug(row.name)}"
        metrics |= {f"{where}/f1": row.f1, f"{where}/f1_spread": row.f1_spread, f"{where}/delta_f1": row.delta}
        metrics |= {f"{where}/delta_f1_low": row.low, f"{where}/delta_f1_high": row.high}
    return {name: value for name, value in metrics.items() if value is not None}
