"""Who is compared with whom: trained systems, models behind a server, baselines, and chains with fewer agents.

for system in line_up(config.evaluation, config.agents.chain, ["warm_start", "mappo"]):
    system.name, system.kind, system.model, system.agents
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evaluation.scores import SystemKind
from jointrag.agents import Chain, build_chain
from jointrag.config import AgentsConfig, EvaluationConfig, LanguageModelSection
from jointrag.generation import LanguageModel, check_folder
from jointrag.types import Hit

ORDER = ("warm_start", "control", "mappo")  # baselines first: each system is compared with all before it


@dataclass(frozen=True, slots=True)
class System:
    """One column of the comparison. `model`: whose weights answer."""

    name: str
    kind: SystemKind
    model: str
    agents: tuple[str, ...]

    def chain(self, config: AgentsConfig) -> Chain:
        return build_chain(config.subset(self.agents))


class Nothing:
    """A retriever that finds nothing."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[] for _ in queries]


class Speaker:
    """A model that is loaded when it first has something to say."""

    def __init__(self, load: Callable[[], LanguageModel]) -> None:
        self._load = load

    @cached_property
    def llm(self) -> LanguageModel:
        return self._load()

    def unload(self) -> None:
        """Make room for the next one."""
        self.__dict__.pop("llm", None)


def line_up(config: EvaluationConfig, chain: Sequence[str], checkpoints: Sequence[str]) -> list[System]:
    """All systems in the order shown: baselines, then each model after its subsets.

    Raises ValueError for two systems of one name, or a setting that names a system there is none of.
    """
    models = sorted([*checkpoints, *config.served], key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))
    if not models:
        raise ValueError("nothing to evaluate: give at least one checkpoint or served model")
    named = {"baseline_model": [config.baseline_model] if config.baseline_model else []}
    named |= {"subsets_of": list(config.subsets_of), "attribution_of": list(config.attribution_of)}
    for setting, names in named.items():
        if unknown := [name for name in names if name not in models]:
            raise ValueError(f"evaluation.{setting} names {unknown[0]!r}, but the systems are {', '.join(models)}")
    systems = list(_systems(config, tuple(chain), models))
    names = [system.name for system in systems]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{twice[0]!r} names two systems: of the checkpoints, evaluation.served, evaluation.baselines and "
            "evaluation.subsets; give one of them another name, or leave it out"
        )
    return systems


def _systems(config: EvaluationConfig, chain: tuple[str, ...], models: Sequence[str]) -> Iterator[System]:
    for baseline in config.baselines:
        yield System(baseline, baseline, config.baseline_model or models[0], chain[-1:])
    with_subsets = config.subsets_of or _main(models, ("mappo",)) or tuple(m for m in models if m not in config.served)
    for model in models:
        for agents in config.subsets if model in with_subsets else ():
            ordered = tuple(agent for agent in chain if agent in agents)
            if ordered != chain:
                yield System("-".join([model, *ordered]), "subset", model, ordered)
        yield System(model, "served" if model in config.served else "trained", model, chain)


def attributed(config: EvaluationConfig, systems: Sequence[System]) -> tuple[str, ...]:
    """The systems whose lost points are traced to the agents."""
    if not config.attribution:
        return ()
    trained = [system.name for system in systems if system.kind == "trained"]
    ends = tuple(dict.fromkeys([*trained[:1], *trained[-1:]]))
    return config.attribution_of or _main(trained, ("warm_start", "mappo")) or ends


def _main(names: Sequence[str], wanted: tuple[str, ...]) -> tuple[str, ...]:
    return wanted if set(wanted) <= set(names) else ()


# ---- models ----------------------------------------------------------------------------------------------------------


def speaker(
    name: str, checkpoints: Mapping[str, Path], config: EvaluationConfig, model: LanguageModelSection, device: str
) -> Speaker:
    """The model of that name. Raises ValueError for a checkpoint that cannot be loaded, before anything is answered."""
    if name in config.served:
        served = _served(config, name)  # costs nothing, and says at once that its key is missing
        return Speaker(lambda: served)
    folder = checkpoints[name] / "model"
    if not folder.is_dir():
        raise ValueError(f"system {name!r}: {folder} is missing; train that stage again")
    try:
        check_folder(folder)
    except ValueError as error:
        raise ValueError(f"system {name!r}: {error}") from None
    return Speaker(lambda: _local(folder, model, device))


def _served(config: EvaluationConfig, name: str) -> LanguageModel:
    from jointrag.served import ServedLM

    return ServedLM(config.served[name])


def _local(folder: Path, model: LanguageModelSection, device: str) -> LanguageModel:
    from jointrag.generation import LocalLM

    return LocalLM.load(folder, model, device)
