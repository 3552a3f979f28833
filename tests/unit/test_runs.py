"""Runs on disk: what a flow writes down, and how a run is found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from jointrag.config import PipelineConfig
from jointrag.presets import ConfigError
from jointrag.runs import CONFIG, RUNS, STAGES, StageRecord, find, runs


def add_run(
    workspace: Path, name: str, *stages: str, started: str = "2026-01-01T10:00:00+00:00", finish: bool = True
) -> Path:
    folder = workspace / RUNS / name
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(yaml.safe_dump(PipelineConfig(seed=3).model_dump(mode="json")))
    record = StageRecord(folder, workspace, started)
    record.begin()
    for stage in stages:
        output = workspace / "models" / stage / "abc"
        output.mkdir(parents=True, exist_ok=True)
        record.add(stage, output)
    if finish:
        record.finish()
    return folder


def test_what_is_recorded_is_found(tmp_path: Path) -> None:
    folder = add_run(tmp_path, "demo-red-fox", "index", "warm_start", "mappo")
    run = find("demo-red-fox", tmp_path)
    assert (run.name, run.workspace, run.folder) == ("demo-red-fox", tmp_path, folder)
    assert run.stage("mappo") == tmp_path / "models/mappo/abc"
    assert run.checkpoints == ["mappo", "warm_start"] and run.can_answer
    assert run.config.seed == 3
    assert json.loads((folder / STAGES).read_text())["stages"]["mappo"] == "models/mappo/abc"
    assert find("red", tmp_path).name == find(str(folder), Path("/nowhere")).name == run.name


def test_a_workspace_can_be_moved(tmp_path: Path) -> None:
    add_run(tmp_path / "old", "demo-red-fox", "index", "mappo")
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert find("fox", tmp_path / "new").stage("mappo") == tmp_path / "new/models/mappo/abc"


def test_by_default_the_newest_finished_run_that_can_answer(tmp_path: Path) -> None:
    add_run(tmp_path, "demo-old", "index", "mappo", started="2026-01-01T10:00:00+00:00")
    add_run(tmp_path, "demo-new", "index", "mappo", started="2026-01-03T10:00:00+00:00")
    add_run(tmp_path, "demo-going-on", "index", "mappo", started="2026-01-04T10:00:00+00:00", finish=False)
    add_run(tmp_path, "index-only", "index", started="2026-01-05T10:00:00+00:00")
    assert find(None, tmp_path).name == "demo-new"
    assert [run.name for run in runs(tmp_path)] == ["index-only", "demo-going-on", "demo-new", "demo-old"]
    assert find("going", tmp_path).finished is None  # by name it may be asked all the same


def test_a_name_that_is_a_part_of_another_names_its_own_run(tmp_path: Path) -> None:
    add_run(tmp_path, "demo-fox", "index", "mappo")
    add_run(tmp_path, "demo-fox-2", "index", "mappo")
    assert find("demo-fox", tmp_path).name == "demo-fox"


def test_an_unknown_or_ambiguous_name_lists_the_runs(tmp_path: Path) -> None:
    add_run(tmp_path, "demo-red-fox", "index", "mappo")
    add_run(tmp_path, "demo-red-hen", "index", finish=False)
    with pytest.raises(ValueError, match=r"(?s)no run 'cat'.*red-hen .*no trained agents; not finished") as error:
        find("cat", tmp_path)
    assert "demo-red-fox  2026-01-01 10:00  mappo" in str(error.value)
    with pytest.raises(ValueError, match="2 runs have 'red' in their names"):
        find("red", tmp_path)


def test_what_to_do_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no finished run.*train one first: python -m flows\.full_pipeline"):
        find(None, tmp_path)
    folder = add_run(tmp_path, "demo-old", "index", "mappo")
    (folder / STAGES).unlink()
    for name in (None, "demo-old", "old"):
        with pytest.raises(ValueError, match=r"no stages\.json: an older version made it; run the same flow"):
            find(name, tmp_path)


def test_a_stage_that_is_missing_is_named_with_the_remedy(tmp_path: Path) -> None:
    add_run(tmp_path, "demo-red-fox", "index", "mappo")
    shutil.rmtree(tmp_path / "models/mappo")
    with pytest.raises(ValueError, match=r"models/mappo/abc is gone; run the same flow .* stage mappo again"):
        find("fox", tmp_path).stage("mappo")
    with pytest.raises(ValueError, match="has no control; it has index, mappo"):
        find("fox", tmp_path).stage("control")


@pytest.mark.parametrize("content", ["", "[]", '{"stages": 3}', '{"started": "x", "stages": {"a": 1}}', "{"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (add_run(tmp_path, "demo-red-fox", "index") / STAGES).write_text(content)
    with pytest.raises(ValueError, match=r"demo-red-fox/stages\.json: damaged"):
        find("fox", tmp_path)


def test_settings_of_another_version_are_named(tmp_path: Path) -> None:
    folder = add_run(tmp_path, "demo-red-fox", "index", "mappo")
    (folder / CONFIG).write_text("mappo: {num_stepps: 3}")
    with pytest.raises(ConfigError, match=r"config\.yaml does not fit this version: unknown setting mappo\.num_stepps"):
        _ = find("fox", tmp_path).config
