"""Whatever cannot work fails in the first second, with a sentence that says what to do.

Cheap looks only: files that are missing or empty, a model that is not at hand while offline, a device that is not
there, more processes than GPUs, a port that is taken, a reward function that cannot be imported. What is inside the
files is checked by the stage that reads them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from jointrag import corpus_files
from jointrag.config import Dataset, FilesDataset, PipelineConfig, PretrainedEncoder, PretrainedLM, PublicDataset
from jointrag.datasets.files import REQUIRED
from jointrag.datasets.questions import find_questions
from jointrag.datasets.rows import find_splits
from jointrag.own_code import load_function
from jointrag.presets import ConfigError

FILES = ("corpus.jsonl", "train.jsonl", "dev.jsonl", "test.jsonl")


def preflight(config: PipelineConfig) -> None:
    """Raise ConfigError with everything that is sure to fail, a line each."""
    if problems := list(_problems(config)):
        raise ConfigError("\n".join(problems))


def _problems(config: PipelineConfig) -> Iterator[str]:
    yield from _workspace_problems(config.workspace)
    yield from dataset_problems(config.dataset)
    yield from _process_problems(config)
    if isinstance(config.retriever.encoder, PretrainedEncoder):
        yield from model_problems("retriever.encoder.name", config.retriever.encoder.name)
    for section, model in (("reranker", config.reranker), ("late_interaction", config.late_interaction)):
        if model is not None:
            yield from model_problems(f"{section}.model", model.model)
    if isinstance(config.language_model, PretrainedLM):
        yield from model_problems("language_model.name", config.language_model.name)
    yield from _reward_problems(config.mappo.reward)
    for port in range(config.server.port, config.server.port + config.server.replicas) if config.server.port else ():
        if not port_is_free(config.server.host, port):
            yield f"server.port={port} is in use on {config.server.host}; choose another one, or 0 for any free port"


def _process_problems(config: PipelineConfig) -> Iterator[str]:
    runtime = config.runtime
    if runtime.accelerate_config and not runtime.accelerate_config.is_file():
        yield f"runtime.accelerate_config={runtime.accelerate_config}: no such file; configs/accelerate/ has some"
    num_gpus = 0 if runtime.device == "cpu" else _num_gpus()
    if runtime.device == "cuda" and num_gpus == 0:
        yield "runtime.device=cuda, but there is no usable NVIDIA GPU here; use runtime.device=cpu or auto"
    elif 0 < num_gpus < runtime.num_processes:
        yield (
            f"runtime.num_processes={runtime.num_processes} need a GPU each, and there are {num_gpus}; use "
            f"runtime.num_processes={num_gpus}"
        )
    for setting, size in (("warm_start", config.warm_start.batch_size), ("control", config.control.batch_size)):
        if size % runtime.num_processes:
            yield (
                f"{setting}.batch_size={size} cannot be shared by runtime.num_processes={runtime.num_processes}; "
                "choose a multiple"
            )


def _workspace_problems(workspace: Path) -> Iterator[str]:
    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        yield f"workspace={workspace} cannot be made ({error.strerror}); choose another folder"
        return
    if not os.access(workspace, os.W_OK | os.X_OK):
        yield f"workspace={workspace} cannot be written to; choose another folder, or change its permissions"


def dataset_problems(dataset: Dataset) -> Iterator[str]:
    """What is missing from the data set."""
    if isinstance(dataset, PublicDataset):
        yield from _public_problems(dataset)
    if not isinstance(dataset, FilesDataset):
        return
    looked_for: list[Callable[[], Path]] = []
    if (path := dataset.path) is not None:
        if not path.is_dir():
            yield f"dataset.path={path}: no such folder; it should hold {', '.join(FILES)} (see data/README.md)"
            return
        looked_for += [partial(corpus_files.find, path)] if dataset.documents is None else []
        looked_for += [partial(find_questions, path, s) for s in REQUIRED] if dataset.questions == "files" else []
    files: list[Path] = []
    for look in looked_for:
        try:
            files.append(look())
        except ValueError as error:
            yield f"{error}; dataset.path should hold {', '.join(FILES)} (see data/README.md)"
    if dataset.documents is not None and not dataset.documents.is_dir():
        yield f"dataset.documents={dataset.documents}: no such folder"
    for file in files:
        if not _has_a_line(file):
            what = "passages" if file.stem.startswith("corpus") else "questions"
            yield f"{file} holds no {what}; write one JSON object per line (see data/README.md)"


def _public_problems(dataset: PublicDataset) -> Iterator[str]:
    if dataset.path is not None:
        try:
            find_splits(dataset.path)
        except ValueError as error:
            yield str(error)
    if isinstance(dataset.corpus, Path) and not dataset.corpus.is_file():
        yield f"dataset.corpus={dataset.corpus}: no such file; give one, or own, psgs_w100 or wiki18"


def model_problems(setting: str, name: str) -> Iterator[str]:
    """A model name that is neither a folder nor, while offline, in the Hugging Face cache."""
    if Path(name).is_dir():
        return
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        yield f"{setting}={name}: no such folder"
        return
    from huggingface_hub import constants, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE and not isinstance(try_to_load_from_cache(name, "config.json"), str):
        yield (
            f"{setting}={name} is neither a folder nor in the Hugging Face cache, and HF_HUB_OFFLINE is set; "
            "unset it, or download the model first and give its folder"
        )


def _reward_problems(reward: str | dict[str, float]) -> Iterator[str]:
    for name in [reward] if isinstance(reward, str) else reward:
        if ":" in name:  # the others are known names
            try:
                load_function(name)
            except ValueError as error:
                yield f"mappo.reward={name}: {error}"


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"no server can listen on {host}:{port}: {error.strerror}") from None
            return False
    return True


def _num_gpus() -> int:
    devices = [*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("dxg")]
    if not devices:  # known without the seconds that importing torch takes
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _has_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        return any(line.strip() for line in file)
