from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from flows.command_line import STAGES
from flows.opening import Preset, StageName
from jointrag import presets
from jointrag.config import (
    Bm25IndexConfig,
    FilesDataset,
    HybridIndexConfig,
    IndexConfig,
    PretrainedEncoder,
    PretrainedLM,
    SyntheticDataset,
    TorchIndexConfig,
)
from jointrag.presets import ConfigError, resolve
from tasks import stages
from tasks.run import Stage


@pytest.mark.parametrize("name", presets.presets())
def test_every_preset_loads_and_says_what_it_is(name: str) -> None:
    resolve(name)
    assert 20 < len(presets.describe(presets.presets()[name])) <= 120


@pytest.mark.parametrize("name", presets.presets())
def test_every_preset_states_only_what_differs(name: str) -> None:
    stated = yaml.safe_load(presets.presets()[name].read_text())
    assert set(stated) <= set(type(resolve(name)).model_fields)


def test_choices_of_the_forms_are_the_presets_and_stages() -> None:
    assert set(get_args(Preset)) == set(presets.presets())
    assert get_args(StageName) == STAGES
    assert tuple(thing.name for thing in vars(stages).values() if isinstance(thing, Stage)) == STAGES
    deployments = yaml.safe_load((presets.CONFIGS.parent / "prefect.yaml").read_text())["deployments"]
    full = [d for d in deployments if d["entrypoint"] == "flows.full_pipeline.full_pipeline"]
    whole = set(presets.presets()) - {"retriever", "index"}  # of flows.train_retrieval and flows.build_index alone
    assert {d["name"]: d["parameters"] for d in full} == {name: {"preset": name} for name in whole}


def test_the_papers_setting() -> None:
    config = resolve("paper")
    assert isinstance(config.language_model, PretrainedLM)
    assert isinstance(config.retriever.encoder, PretrainedEncoder)
    assert (config.language_model.name, config.retriever.encoder.name) == (
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "facebook/contriever",
    )
    assert config.language_model.lora and not config.retriever.train
    assert (config.agents.num_candidates, config.mappo.kl_floor, config.mappo.learning_rate) == (10, 0.05, 1e-5)


def test_overrides_are_merged_into_the_preset() -> None:
    preset = resolve("demo")
    changed = resolve("demo", ["mappo.num_steps=50", "agents.chain=[selector, generator]", "mappo.learning_rate=1e-4"])
    assert (changed.mappo.num_steps, changed.mappo.learning_rate) == (50, 1e-4)
    assert changed.agents.chain == ("selector", "generator")
    assert changed.mappo.questions_per_step == preset.mappo.questions_per_step
    assert changed.warm_start == preset.warm_start


def test_overrides_as_dictionaries() -> None:
    nested = resolve("demo", {"mappo": {"num_steps": 50}, "seed": 3})
    assert (
        nested
        == resolve("demo", {"mappo.num_steps": 50, "seed": 3})
        == resolve("demo", ["mappo.num_steps=50", "seed=3"])
    )


def test_the_kind_of_an_index_is_chosen_by_its_type() -> None:
    assert resolve("paper").index == IndexConfig(batch_size=1024)
    assert resolve("paper", ["index.type=bm25", "index.language=german"]).index == Bm25IndexConfig(language="german")
    hybrid = resolve("demo", ["index.type=hybrid", "index.dense={type: torch, truncate_dim: 64}"]).index
    assert hybrid == HybridIndexConfig(dense=TorchIndexConfig(truncate_dim=64))
    with pytest.raises(
        ConfigError, match=r"unknown setting index.factory: index of kind 'torch' has none of that name"
    ):
        resolve("demo", ["index.type=torch", "index.factory=Flat"])


def test_another_kind_of_section_starts_from_its_own_defaults() -> None:
    config = resolve("demo", ["dataset.name=files", "dataset.path=data/mine"])
    assert config.dataset == FilesDataset(name="files", path=Path("data/mine"))
    back = resolve("single-gpu", ["dataset.name=synthetic", "dataset.num_people=7"])
    assert back.dataset == SyntheticDataset(num_people=7)


@pytest.mark.parametrize(
    "override, message",
    [
        ("mappo.num_stepz=3", "unknown setting mappo.num_stepz; did you mean mappo.num_steps?"),
        ("num_steps=3", "unknown setting num_steps; did you mean mappo.num_steps?"),
        ("mapo.num_steps=3", "unknown setting mapo; did you mean mappo?"),
        ("dataset.path=x", "unknown setting dataset.path: dataset of kind 'synthetic' has none of that name"),
        ("mappo.num_steps=many", "mappo.num_steps: expected a valid integer, .*found 'many'"),
        ("mappo.num_steps=0", "mappo.num_steps: expected greater than 0, found 0"),
        ("mappo=3", "mappo: expected a section of settings, found 3"),
        ("runtime.device=tpu", "runtime.device: expected 'auto', 'cpu' or 'cuda', found 'tpu'"),
        ("dataset.name=file", "dataset.name: 'file' is not one of 'synthetic', 'files'"),
        ("dataset.name=files", "dataset: path has to be set: the folder"),
        ("mappo.minibatch_episodes=99999", "mappo: minibatch_episodes=99999 is more than the "),
        ("agents.chain=[rewriter]", "agents: the chain has to end with an agent that gives the answer: generator"),
        ("agents.rewritr.penalty=-1", "unknown setting agents.rewritr; did you mean agents.rewriter?"),
        (
            "agents.rewriter.penaltyy=-1",
            "unknown setting agents.rewriter.penaltyy; did you mean agents.rewriter.penalty",
        ),
        ("agents.umpire.penalty=-1", "unknown setting agents.umpire; agents has agents.chain, .*, agents.rewriter, "),
        ("agent_data.num_control_questions=0", "control.enabled needs agent_data.num_control_questions > 0"),
        ("mappo.num_steps", "override 'mappo.num_steps' is not of the form section.setting=value"),
        ("mappo.num_steps=[1", "is not a YAML value"),
    ],
)
def test_mistakes_are_one_clear_message(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        resolve("demo", [override])
    assert len(str(caught.value).splitlines()) == 1
    assert "pydantic" not in str(caught.value)


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown preset 'dmeo'; did you mean demo\?; known presets: demo, hotpotqa"):
        resolve("dmeo")


def test_broken_preset_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "CONFIGS", tmp_path)
    (tmp_path / "mine.yaml").write_text("mappo: [1")
    with pytest.raises(ConfigError, match=r"mine\.yaml: not valid YAML: .*line 1"):
        resolve("mine")
    (tmp_path / "mine.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="expected sections"):
        resolve("mine")
    (tmp_path / "mine.yaml").write_text("# nothing differs\n")
    assert resolve("mine").seed == 0


def test_settings_lists_every_kind() -> None:
    paths = {path for path, _ in presets.settings()}
    assert {"seed", "mappo.num_steps", "dataset.path", "dataset.num_people", "language_model.lora.r"} <= paths


def test_a_flashrag_set_by_one_name() -> None:
    dataset = resolve("single-gpu", ["dataset.name=flashrag:bamboogle"]).dataset
    assert (dataset.name, getattr(dataset, "subset", None)) == ("flashrag", "bamboogle")
    assert dataset == resolve("single-gpu", ["dataset.name=flashrag", "dataset.subset=bamboogle"]).dataset
