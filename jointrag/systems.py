"""Opens a run for asking: the options that `jointrag ask` and `jointrag serve` share, and what they lead to.

    add_options(parser)
    given = parser.parse_args()
    run, systems = open_systems(given, default=["mappo"])

A checkpoint is a stage of the run (mappo), a folder (mine=models/mappo/KEY) or a model behind an OpenAI-compatible
server (big=http://HOST:8000/v1#MODEL). All of them share the chain, the settings and the retriever of the run.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from jointrag.asking import System
from jointrag.runs import CHECKPOINTS, RecordedRun, find

if TYPE_CHECKING:
    from jointrag.config import PipelineConfig
    from jointrag.generation import LanguageModel
    from jointrag.retrieval import Retriever

_ADDRESS = ("http://", "https://")
_MOST_SILENT_S = 10.0  # of a retrieval server, before it is given up


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", metavar="NAME", help="a run's name, or a part of it (default: the newest finished one)"
    )
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR", help="its workspace (default: here)")
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="NAME[=WHERE]",
        help="mappo, warm_start or control; NAME=FOLDER; NAME=http://HOST:8000/v1#MODEL; repeatable",
    )
    parser.add_argument("--retrieval-url", metavar="URL", help="a retrieval server to ask (default: the run's index)")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1 … (default: as in the run)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: as in the run)")


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def open_systems(given: argparse.Namespace, default: Sequence[str]) -> tuple[RecordedRun, list[System]]:
    """The run and its checkpoints: those asked for, else the `default` ones, as far as the run has them.

    Raises ValueError for whatever is missing, with the remedy; before a model is loaded where it can be seen at once.
    """
    run = find(given.run, given.workspace)
    config = run.config
    wanted = given.checkpoint or _defaults(run, default)
    places = dict(_place(run, text) for text in wanted)
    if len(places) < len(wanted):
        raise ValueError(f"--checkpoint {', '.join(wanted)}: every name once")
    index = None if given.retrieval_url else run.stage("index")
    device = given.device or config.runtime.device
    if threads := given.threads or config.runtime.num_threads:
        os.environ["OMP_NUM_THREADS"] = str(
            threads
        )  # Faiss, in whatever thread it is called; torch when it is imported
    import torch
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from jointrag.agents import build_chain
    from jointrag.devices import check_device

    check_device(device)
    if threads:
        torch.set_num_threads(threads)
    disable_progress_bar()
    set_verbosity_error()
    chain = build_chain(config.agents)
    retriever = _http(given.retrieval_url) if index is None else _in_process(run, config, index, device)
    return run, [
        System(name, chain, retriever, _language_model(name, place, config, device)) for name, place in places.items()
    ]


def example_questions(run: RecordedRun, count: int = 3) -> list[str]:
    """Some held-out questions, for those who do not know what to ask; none where the data is gone."""
    from jointrag.jsonl import read_jsonl
    from jointrag.types import Question

    file = run.stages.get("prepare", Path()) / "questions" / "test.jsonl"
    return [question.text for question in islice(read_jsonl(file, Question), count)] if file.is_file() else []


def _defaults(run: RecordedRun, names: Sequence[str]) -> list[str]:
    if here := [name for name in names if name in run.stages]:
        return here
    if run.checkpoints:
        return run.checkpoints[:1]
    raise ValueError(
        f"run {run.name} trained no agents; name a checkpoint (--checkpoint NAME=models/mappo/KEY) or another run"
    )


def _place(run: RecordedRun, text: str) -> tuple[str, str | Path]:
    """Name and model folder or address of what --checkpoint says."""
    name, equals, where = text.partition("=")
    if not re.fullmatch(r"\w[\w.-]*", name) or (equals and not where):
        raise ValueError(
            f"--checkpoint {text}: NAME or NAME=WHERE is expected; a name has letters, digits, '_', '-' and '.'"
        )
    if where.startswith(_ADDRESS):
        return name, where
    if equals:
        return name, _model_folder(name, Path(where).expanduser(), run.workspace)
    if name not in CHECKPOINTS or name not in run.stages:
        here = ", ".join(run.checkpoints) or "none"
        raise ValueError(f"run {run.name} has no checkpoint {name!r}; it has {here}, and {name}=FOLDER takes any other")
    model = run.stage(name) / "model"
    if not model.is_dir():
        raise ValueError(
            f"checkpoint {name}: {model} is missing; run the same flow with --force {name}, which makes it again"
        )
    return name, model


def _model_folder(name: str, given: Path, workspace: Path) -> Path:
    """A stage's output, or the model in it; relative to here or to the workspace."""
    tried = dict.fromkeys([given.resolve(), (workspace / given).resolve()])
    for folder in tried:
        for model in (folder / "model", folder):
            if (model / "config.json").is_file():
                return model
    raise ValueError(f"checkpoint {name}: there is no model (config.json) in {' or '.join(map(str, tried))}")


def _language_model(name: str, place: str | Path, config: PipelineConfig, device: str) -> LanguageModel:
    if isinstance(place, str):
        from jointrag.config import ServedConfig
        from jointrag.served import ServedLM

        base_url, _, model = place.partition("#")
        if not model:
            raise ValueError(f"checkpoint {name}={place} does not name the model: {name}={place}#MODEL")
        return ServedLM(ServedConfig(base_url=base_url, name=model))
    from jointrag.generation import LocalLM, check_folder

    try:
        check_folder(place)
    except ValueError as error:
        raise ValueError(f"checkpoint {name}: {error}") from None
    try:
        return LocalLM.load(place, config.language_model, device)
    except Exception as error:  # whatever a damaged folder leads to
        raise ValueError(
            f"checkpoint {name}: {place} cannot be loaded ({type(error).__name__}: {error}); if the folder is damaged, "
            f"run the flow that made it again"
        ) from error


def _http(url: str) -> Retriever:
    from jointrag.retrieval import HttpRetriever, RetrieverUnavailable

    retriever = HttpRetriever(url, _MOST_SILENT_S)
    try:
        retriever.search(["is anybody there?"], 1)
    except (RetrieverUnavailable, RuntimeError) as error:
        raise ValueError(f"--retrieval-url {url}: {error}") from None
    return retriever


def _in_process(run: RecordedRun, config: PipelineConfig, index: Path, device: str) -> Retriever:
    from jointrag.retrieval import InProcessRetriever, RerankingRetriever

    found = InProcessRetriever.open(index, device)
    if config.reranker is None:
        return found
    from jointrag import Reranker

    use = config.reranking
    model = str(run.stage("reranker") / "model") if config.reranker.train else config.reranker.model
    reranker = Reranker(model, use.kind, device, max_length=use.max_length, verbose=0)
    return RerankingRetriever(found, reranker, use.num_retrieved)
