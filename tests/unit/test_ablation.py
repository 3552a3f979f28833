"""Ablation tables: the shipped ones, the settings of their rows, and the numbers they end in."""

from __future__ import annotations

from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap

from evaluation import ablation, ablation_tables
from evaluation.ablation_data import Result
from evaluation.measures import measure
from evaluation.scores import Scores, SystemScores
from flows.ablation import _trainings
from jointrag import ablations
from jointrag.config import EvaluationConfig
from jointrag.jsonl import write_jsonl
from jointrag.presets import ConfigError, presets, resolve
from jointrag.types import Episode, Question

TRAINING_PRESETS = sorted(set(presets()) - {"retriever", "index"})


@pytest.mark.parametrize("table", ablations.tables())
@pytest.mark.parametrize("preset", TRAINING_PRESETS)
def test_every_row_of_every_table_is_possible_with_every_preset(table: str, preset: str) -> None:
    rows = ablations.load(table)
    configs = {name: resolve(preset, rows.overrides(name, {}, seed=3)) for name in rows.variants}
    assert {config.seed for config in configs.values()} == {3}
    assert not any(config.control.enabled for config in configs.values())
    assert len({config.model_dump_json() for config in configs.values()}) >= len(rows.variants) - (preset == "paper")
    assert 20 < len(rows.about) <= 118


def test_a_row_wins_over_what_is_changed_everywhere(tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text("# Mine against theirs\nall: {}\nfew: {mappo: {num_steps: 2, trained: [generator]}}\n")
    rows = ablations.load(str(table))
    assert (rows.name, rows.about, rows.full) == ("mine", "Mine against theirs", "all")
    given = {"mappo": {"num_steps": 7, "learning_rate": 1e-4}, "control.enabled": True, "seed": 9}
    full, few = (resolve("smoke", rows.overrides(name, given, seed=1)) for name in ("all", "few"))
    assert (full.mappo.num_steps, few.mappo.num_steps) == (7, 2)
    assert few.mappo.trained == ("generator",)
    assert full.mappo.learning_rate == few.mappo.learning_rate == 1e-4
    assert full.control.enabled  # asked for
    assert full.seed == few.seed == 1  # --seeds says which


@pytest.mark.parametrize(
    "text, message",
    [
        ("# one\nfull: {}\n", "one row is no comparison"),
        ("# list\n- full\n- other\n", r"every line names a row: `name: \{mappo.num_steps: 50\}`"),
        ("# text\nfull: {}\nother: 7\n", "every line names a row"),
        ("# same\na + b: {}\na & b: {}\n", "'a \\+ b' and 'a & b' differ in no letter or digit"),
        ("# broken\nfull: {\n", "not valid YAML"),
        ("", "every line names a row"),
    ],
)
def test_a_table_that_is_none_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        ablations.load(str(tmp_path / "x.yaml"))


def test_mistakes_are_found_before_the_first_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no ablation 'agnets': name one of advantages, agents, kl"):
        ablations.load("agnets")
    (tmp_path / "x.yaml").write_text("# x\nfull: {}\nother: {mappo.num_stepz: 3}\n")
    rows = ablations.load(str(tmp_path / "x.yaml"))
    with pytest.raises(ConfigError, match=r"row 'other' of table x: unknown setting mappo\.num_stepz; did you mean"):
        _trainings(rows, "smoke", [0], {})
    with pytest.raises(ConfigError, match="seeds names one twice: 1 1"):
        _trainings(ablations.load("agents"), "smoke", [1, 1], {})


def test_the_interval_over_questions_is_the_bootstraps() -> None:
    differences = np.random.default_rng(1).normal(0.03, 0.4, 300)
    low, high = ablation.two_level_interval([differences], np.random.default_rng(0), 4_000)
    theirs = bootstrap((differences,), np.mean, n_resamples=4_000, method="percentile", rng=np.random.default_rng(2))
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.003)


def test_the_interval_over_seeds_counts_every_draw_of_them() -> None:
    """Two seeds without any spread over questions: the mean is 0.1, 0.2 or 0.3 with 1/4, 1/2 and 1/4."""
    per_seed = [np.full(5, 0.1), np.full(50, 0.3)]
    assert ablation.two_level_interval(per_seed, np.random.default_rng(0), 1_000) == pytest.approx((0.1, 0.3))


def evaluated(folder: Path, right: set[int], num_questions: int = 8) -> Path:
    """An evaluation whose trained system answers just the questions `right`, and whose warm start none."""

    def episodes(right: set[int]) -> list[Episode]:
        return [
            Episode(Question(f"q{i}", "Where?", ("Paris",)), answer="Paris" if i in right else "Lyon")
            for i in range(num_questions)
        ]

    answered = {"warm_start": episodes(set()), "mappo": episodes(right)}
    systems = {name: SystemScores(overall=measure(e), types={}, seconds=1.0) for name, e in answered.items()}
    scores = Scores(num_questions=num_questions, types={}, systems=systems, comparisons=())
    for name, lines in answered.items():
        write_jsonl(folder / "predictions" / f"{name}.jsonl", lines)
    (folder / "scores.json").write_text(scores.model_dump_json())
    return folder


def table(tmp_path: Path) -> ablations.Ablation:
    (tmp_path / "x.yaml").write_text("# With and without\nwith it: {}\nwithout it: {mappo.num_steps: 3}\n")
    return ablations.load(str(tmp_path / "x.yaml"))


def test_the_table_by_hand(tmp_path: Path) -> None:
    right = {"with it.0": set(range(8)), "with it.1": set(range(6)), "without it.0": {0, 1}, "without it.1": {0, 7}}
    runs = {name: evaluated(tmp_path / name, which) for name, which in right.items()}
    metrics = ablation.write(table(tmp_path), EvaluationConfig(num_bootstrap=500), runs=runs, out=tmp_path)
    result = Result.read(tmp_path / "ablation.json")
    assert (result.seeds, result.num_questions) == ((0, 1), 8)
    full, other = result.rows
    assert (full.f1, full.f1_spread, full.delta) == (0.875, pytest.approx(stdev([1.0, 0.75])), None)
    assert (other.f1, other.f1_spread, other.settings) == (0.25, 0.0, {"mappo.num_steps": 3})
    assert other.delta == pytest.approx(-0.625)
    assert other.delta_spread == pytest.approx(stdev([-0.75, -0.5]))
    assert other.low is not None and other.high is not None
    assert -1 < other.low < -0.625 < other.high < 0
    assert metrics["ablation/with-it/f1"] == 0.875
    assert metrics["ablation/without-it/delta_f1_high"] == other.high
    assert "ablation/with-it/delta_f1" not in metrics

    console, markdown = ablation_tables.as_text(result), (tmp_path / "ablation.md").read_text()
    page = (tmp_path / "ablation.html").read_text()
    sentence = "with it reaches F1 87.5: without it 62.5 points below."
    assert console.count(sentence) == markdown.count(f"**{sentence}**") == page.count(sentence) == 1
    for text in (console, markdown, page):
        assert "87.5 ± 17.7" in text.replace("\u00a0", " ")
        assert "−62.5 (" in text
    assert "| without it | 25.0 | 25.0 |" in markdown  # per seed
    assert "mappo.num" in markdown and "mappo.num_steps=3" in page


def test_one_seed_has_no_spread_and_says_so(tmp_path: Path) -> None:
    runs: dict[str, Any] = {f"{name}.4": evaluated(tmp_path / name, {0, 1, 2}) for name in ("with it", "without it")}
    ablation.write(table(tmp_path), EvaluationConfig(num_bootstrap=100), runs=runs, out=tmp_path)
    result = Result.read(tmp_path / "ablation.json")
    assert [row.f1_spread for row in result.rows] == [None, None]
    text = ablation_tables.as_text(result)
    assert "No row differs measurably from with it (F1 37.5)." in text
    assert "One seed:" in text and "±" not in text


def test_rows_that_answered_other_questions_are_not_compared(tmp_path: Path) -> None:
    runs = {"with it.0": evaluated(tmp_path / "a", {0}), "without it.0": evaluated(tmp_path / "b", {0}, 7)}
    with pytest.raises(ValueError, match="not the questions that the full system answered"):
        ablation.write(table(tmp_path), EvaluationConfig(), runs=runs, out=tmp_path)
