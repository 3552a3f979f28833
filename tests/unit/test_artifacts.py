from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jointrag import artifacts
from jointrag.artifacts import Artifact, Recipe, find, produce
from jointrag.config import IndexConfig

RECIPE = Recipe("index", 1, {"config": IndexConfig()}, seed=0)


class Maker:
    """A stage function that counts its calls."""

    def __init__(self, text: str = "content") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, out: Path) -> dict[str, float]:
        self.calls += 1
        (out / "model").mkdir()
        (out / "model" / "weights").write_text(self.text)
        (out / "log.txt").write_text("log")
        return {"index/size": 3.0}


def test_finished_output_is_not_made_again(tmp_path: Path) -> None:
    make = Maker()
    first = produce(RECIPE, tmp_path, make)
    second = produce(RECIPE, tmp_path, make)
    assert make.calls == 1
    assert first == second == find(RECIPE, tmp_path)
    assert first.path == tmp_path / "data" / "index" / RECIPE.key
    assert first.metrics == {"index/size": 3.0}


def test_manifest_says_where_the_output_came_from(tmp_path: Path) -> None:
    source = Artifact("prepare", tmp_path / "source", "abc")
    recipe = dataclasses.replace(RECIPE, inputs={"prepared": source})
    artifact = produce(recipe, tmp_path, Maker(), run_id="run", tracking_id="mlflow")
    manifest = artifacts.read_manifest(artifact.path)
    assert manifest["inputs"] == {"prepared": {"path": str(source.path), "fingerprint": "abc"}}
    assert manifest["settings"]["config"]["factory"] == "Flat"
    assert set(manifest["files"]) == {"log.txt", "model/weights"}
    assert manifest["files"]["log.txt"]["size"] == 3
    assert (manifest["seed"], manifest["run_id"], manifest["tracking_id"]) == (0, "run", "mlflow")
    assert manifest["libraries"]["python"] and manifest["seconds"] >= 0


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "log.txt").unlink(),
        lambda path: (path / "model" / "weights").write_text("cont"),  # cut
        lambda path: (path / "model" / "weights").write_text("CONTENT"),  # same size, other content
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text('{"files": '),
    ],
    ids=["deleted", "cut", "changed", "no manifest", "cut manifest"],
)
def test_damaged_output_is_made_again(tmp_path: Path, harm, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    artifact = produce(RECIPE, tmp_path, make)
    harm(artifact.path)
    assert find(RECIPE, tmp_path) is None
    assert "is not usable" in caplog.text
    assert produce(RECIPE, tmp_path, make) == artifact
    assert make.calls == 2
    assert artifacts.damage(artifact.path) is None


def test_large_files_are_checked_by_size_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = produce(RECIPE, tmp_path, Maker())
    monkeypatch.setattr(artifacts, "CHECKED_BYTES", 7)
    (artifact.path / "model" / "weights").write_text("CONTENT")  # 7 bytes
    assert artifacts.damage(artifact.path) is None
    (artifact.path / "model" / "weights").write_text("CONTENTS")
    assert artifacts.damage(artifact.path) == "model/weights has 8 bytes instead of 7"


def test_force_makes_it_again_and_keeps_the_fingerprint_of_the_same_content(tmp_path: Path) -> None:
    make = Maker()
    first = produce(RECIPE, tmp_path, make)
    again = produce(RECIPE, tmp_path, make, force=True)
    assert make.calls == 2
    assert again.fingerprint == first.fingerprint
    assert produce(RECIPE, tmp_path, Maker("other"), force=True).fingerprint != first.fingerprint


def test_key_depends_on_everything_that_decides_the_output() -> None:
    source = Artifact("prepare", Path("x"), "abc")
    moved = Artifact("prepare", Path("elsewhere"), "abc", {"some": 1.0})
    recipe = dataclasses.replace(RECIPE, inputs={"prepared": source})
    assert dataclasses.replace(RECIPE, inputs={"prepared": moved}).key == recipe.key
    others = [
        dataclasses.replace(recipe, stage="retriever"),
        dataclasses.replace(recipe, version=2),
        dataclasses.replace(recipe, seed=1),
        dataclasses.replace(recipe, settings={"config": IndexConfig(batch_size=7)}),
        dataclasses.replace(recipe, inputs={"prepared": dataclasses.replace(source, fingerprint="abd")}),
        RECIPE,
    ]
    assert len({recipe.key, *(other.key for other in others)}) == 7


def test_an_error_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def fail(out: Path) -> dict[str, float]:
        (out / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        produce(RECIPE, tmp_path, fail)
    assert find(RECIPE, tmp_path) is None
    artifact = produce(RECIPE, tmp_path, Maker())
    assert not (artifact.path / "half").exists()  # started afresh


def test_a_stage_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="index wrote no file"):
        produce(RECIPE, tmp_path, lambda out: {})


def test_only_a_resumable_stage_finds_its_earlier_files(tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, stage="mappo", resumable=True)
    found: list[bool] = []

    def attempt(out: Path) -> dict[str, float]:
        found.append((out / "checkpoint").exists())
        (out / "checkpoint").write_text("x")
        if len(found) in (1, 3):
            raise OSError("stopped")
        return {}

    for force, run_id in ((False, "a"), (False, "b")):
        try:
            produce(recipe, tmp_path, attempt, force=force, run_id=run_id)
        except OSError:
            continue
    assert found == [False, True]
    for run_id in ("c", "c", "d"):  # forced: the same run continues, another one starts afresh
        try:
            produce(recipe, tmp_path, attempt, force=True, run_id=run_id)
        except OSError:
            continue
    assert found == [False, True, False, True, False]


def test_two_runs_make_the_same_output_once(tmp_path: Path) -> None:
    make = Maker()
    inside = threading.Event()
    go_on = threading.Event()

    def slowly(out: Path) -> dict[str, float]:
        inside.set()
        assert go_on.wait(10)
        return make(out)

    results: list[Artifact] = []
    first = threading.Thread(target=lambda: results.append(produce(RECIPE, tmp_path, slowly)))
    first.start()
    assert inside.wait(10)
    second = threading.Thread(target=lambda: results.append(produce(RECIPE, tmp_path, make)))
    second.start()
    go_on.set()
    first.join(10)
    second.join(10)
    assert make.calls == 1
    assert results[0] == results[1]


def test_killed_while_writing(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from jointrag.artifacts import Recipe, produce
from jointrag.config import IndexConfig
def make(out):
    (out / "half").write_text("x")
    print("writing", flush=True)
    time.sleep(60)
produce(Recipe("index", 1, {{"config": IndexConfig()}}, seed=0), Path({str(tmp_path)!r}), make)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not RECIPE.path(tmp_path).exists()
    start = time.monotonic()
    artifact = produce(RECIPE, tmp_path, Maker())
    assert time.monotonic() - start < 10  # the lock died with its owner
    assert set(artifacts.read_manifest(artifact.path)["files"]) == {"log.txt", "model/weights"}


def test_outside_files_are_known_by_content(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("a")
    before = artifacts.outside(folder, "files").fingerprint
    os.utime(folder / "corpus.jsonl", (1, 1))
    assert artifacts.outside(folder, "files").fingerprint == before
    (folder / "corpus.jsonl").write_text("b")
    assert artifacts.outside(folder, "files").fingerprint != before


def test_what_is_not_an_artifact_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a finished stage output"):
        artifacts.read(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {}})[:-1])
    with pytest.raises(ValueError, match="not a manifest"):
        artifacts.read(tmp_path)
