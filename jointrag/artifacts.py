"""Stage outputs: a directory each, with a manifest.json written last, so its existence means the stage completed.

A stage's output is named by its `Recipe`: stage name and version, resolved settings, seed, and the fingerprints of what
it reads. `produce` returns the finished directory if it is there and whole, and makes it otherwise:

    artifact = produce(recipe, workspace, lambda out: train(config, out=out))

It works in `<key>.partial` and renames when done, so a killed process leaves nothing that looks finished. A
fingerprint hashes what was written, not what asked for it: redone with the same result, a stage keeps its dependents.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from jointrag.jsonl import write_atomically

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHECKED_BYTES = 64 * 2**20  # larger files are checked by size alone, so that starting a run stays quick
LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "sentence-transformers",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "mlflow",
)
FOLDERS = {
    "prepare": "data",
    "index": "data",
    "agent_data": "data",
    "evaluate": "runs",
    "report": "runs",
    "ablation": "runs",
}  # else models


@dataclass(frozen=True)
class Artifact:
    """A finished stage output."""

    stage: str
    path: Path
    fingerprint: str
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """All that decides what a stage writes. `settings` holds config sections (or plain JSON values) by name."""

    stage: str
    version: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    resumable: bool = False
    """An interrupted try is continued in the files it left; others start in an empty directory."""

    @property
    def key(self) -> str:
        inputs = {name: artifact.fingerprint for name, artifact in self.inputs.items()}
        return stage_key(self.stage, self.version, self.settings, inputs, self.seed)

    def path(self, workspace: Path) -> Path:
        """Where the finished output is, or will be."""
        return workspace.resolve() / FOLDERS.get(self.stage, "models") / self.stage / self.key


def stage_key(
    stage: str, version: int, settings: Mapping[str, Any], inputs: Mapping[str, str], seed: int | None = None
) -> str:
    """A short hash of what a stage's output depends on. `inputs`: name → fingerprint."""
    content = {
        "stage": stage,
        "version": version,
        "settings": {name: plain(value) for name, value in settings.items()},
        "seed": seed,
        "inputs": dict(inputs),
    }
    return _sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())[:16]


def plain(value: Any) -> Any:
    """A config section as JSON values."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def find(recipe: Recipe, workspace: Path) -> Artifact | None:
    """The finished output if it is there and whole. One that is damaged is reported in the log, not used."""
    path = recipe.path(workspace)
    if not path.exists():
        return None
    if reason := damage(path):
        logger.warning("%s: %s is not usable (%s) and will be made again", recipe.stage, path, reason)
        return None
    return read(path)


def read(path: Path) -> Artifact:
    """Load a finished artifact without checking its files."""
    manifest = read_manifest(path)
    return Artifact(manifest["stage"], path, manifest["fingerprint"], manifest["metrics"])


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the artifact directory `path`. Raises ValueError where there is none or it cannot be read."""
    file = path / MANIFEST
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is not a finished stage output: it has no {MANIFEST}") from None
    except ValueError as error:
        raise ValueError(f"{file}: not a manifest ({error})") from None


def damage(path: Path) -> str | None:
    """What is wrong with the artifact directory `path`: a missing, cut or changed file. None: it is whole."""
    try:
        files = read_manifest(path)["files"]
    except (ValueError, KeyError) as error:
        return str(error)
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != expected["size"]:
            return f"{name} has {size} bytes instead of {expected['size']}"
        if size < CHECKED_BYTES and _sha256_file(file) != expected["sha256"]:
            return f"{name} was changed"
    return None


def produce(
    recipe: Recipe,
    workspace: Path,
    make: Callable[[Path], dict[str, float]],
    *,
    force: bool = False,
    run_id: str = "",
    tracking_id: str | None = None,
) -> Artifact:
    """Return the finished output of `recipe`, making it with `make(out) -> metrics` unless it is there and whole.

    `force` makes it again in any case. `run_id` names the flow run: a forced try that was interrupted is continued by
    the same run and started afresh by another. `tracking_id` names the MLflow run. Two runs that want the same output
    at the same time make it once.
    """
    final = recipe.path(workspace)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_beside(final, "lock"), f"{recipe.stage}: another run is making the same output; waiting for it"):
        if not force and (finished := find(recipe, workspace)):
            return finished
        with writing(final.with_suffix(".partial")):  # a process of a run that was just killed may still be ending
            pass
        out = _workplace(final, recipe, run_id if force else None)
        start = time.monotonic()
        metrics = make(out)
        (out / _RUN).unlink()
        manifest = _manifest(recipe, out, metrics)
        manifest |= {"seconds": round(time.monotonic() - start, 3), "run_id": run_id, "tracking_id": tracking_id}
        write_atomically(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))
        if final.exists():
            shutil.rmtree(final)
        out.rename(final)
        return read(final)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Held by the process that writes into `out`, so that nobody else begins while it lives."""
    with _locked(_beside(out, "writing"), f"waiting for a process that still writes to {out}"):
        yield


def outside(path: Path, stage: str) -> Artifact:
    """A file or folder of the user's as an input: fingerprinted by content (by size and time from 64 MB on)."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        content = _sha256_file(file) if status.st_size < CHECKED_BYTES else f"{status.st_size} {status.st_mtime_ns}"
        digest.update(f"{file.relative_to(path)} {content}\n".encode())
    return Artifact(stage, path.resolve(), digest.hexdigest()[:32])


_RUN = ".run"


def _workplace(final: Path, recipe: Recipe, forced_by: str | None) -> Path:
    out = final.with_suffix(".partial")
    note = out / _RUN
    keep = recipe.resumable and note.is_file() and (forced_by is None or note.read_text() == forced_by)
    if keep:
        logger.info("%s: continuing the try that was interrupted", recipe.stage)
    elif out.exists():
        shutil.rmtree(out)
    out.mkdir(exist_ok=True)
    note.write_text(forced_by or "")
    return out


def _manifest(recipe: Recipe, out: Path, metrics: dict[str, float]) -> dict[str, Any]:
    files = {
        str(file.relative_to(out)): {"size": file.stat().st_size, "sha256": _sha256_file(file)}
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    if not files:
        raise ValueError(f"stage {recipe.stage} wrote no file into {out}")
    return {
        "stage": recipe.stage,
        "version": recipe.version,
        "key": recipe.key,
        "fingerprint": _sha256("\n".join(f"{name} {file['sha256']}" for name, file in files.items()).encode())[:32],
        "settings": {name: plain(value) for name, value in recipe.settings.items()},
        "seed": recipe.seed,
        "inputs": {
            name: {"path": str(artifact.path), "fingerprint": artifact.fingerprint}
            for name, artifact in recipe.inputs.items()
        },
        "metrics": metrics,
        "files": files,
        "libraries": {"python": platform.python_version()} | dict(_versions()),
        "git_commit": _git_commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for library in LIBRARIES:
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.stem}.{what}")


@contextmanager
def _locked(path: Path, while_waiting: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("%s", while_waiting)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
