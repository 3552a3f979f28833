"""What the key of a stage depends on beside its settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import build_index, evaluate_rag, full_pipeline, train_agents, train_retrieval
from flows.opening import opened
from jointrag.artifacts import Artifact
from jointrag.presets import ConfigError, resolve
from tasks import stages


def mappo_sources(*overrides: str) -> dict[str, str]:
    """The fingerprints of what MAPPO's key depends on though the stage is not called with it."""
    given: dict[str, Any] = {}
    run: Any = SimpleNamespace(config=resolve("smoke", overrides), build=lambda *_, **keywords: given.update(keywords))
    artifact = Artifact("any", Path("any"), "any")
    stages.mappo(run, artifact, artifact, server=None)  # type: ignore[arg-type]
    return {name: source.fingerprint for name, source in given["sources"].items()}


def test_a_reward_function_counts_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "rewards_for_stages.py"
    file.write_text("def f(episode):\n    return 1.0\n")
    setting = "mappo.reward={f1: 0.5, 'rewards_for_stages:f': 0.5}"
    assert mappo_sources() == {}
    before = mappo_sources(setting)
    assert list(before) == ["reward rewards_for_stages:f"]
    assert mappo_sources(setting) == before
    file.write_text("def f(episode):\n    return 2.0\n")
    assert mappo_sources(setting) != before


@pytest.mark.parametrize("kind, inputs", [("bm25", {"prepared"}), ("hybrid", {"prepared", "retriever"})])
def test_an_index_of_words_does_not_depend_on_the_retriever(kind: str, inputs: set[str]) -> None:
    given: dict[str, Any] = {}
    run: Any = SimpleNamespace(
        config=resolve("smoke", [f"index.type={kind}"]), build=lambda _, sections, inputs: given.update(inputs)
    )
    stages.index(run, Artifact("prepare", Path("any"), "a"), Artifact("retriever", Path("any"), "b"))
    assert set(given) == inputs


@pytest.mark.parametrize("flow", [full_pipeline, train_agents, evaluate_rag, train_retrieval, build_index])
def test_every_flow_can_make_its_retriever_in_every_way(flow: Any) -> None:
    """A stage that is not in the chain has no number on the console, and the run would end there."""
    assert {"prepare", "start_retriever", "preferences", "retriever", "index"} <= set(flow.CHAIN)


@pytest.mark.parametrize("name", ["report", "control"])
def test_only_a_stage_of_the_run_can_be_forced(name: str) -> None:
    asked = opened("smoke", {"control.enabled": False}, [name], ("prepare", "mappo", "control"))
    with pytest.raises(ConfigError, match=rf"force names {name}, .*it has prepare, mappo"), asked:
        pass
