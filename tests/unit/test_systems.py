"""Who is compared with whom."""

from __future__ import annotations

import pytest

from evaluation.systems import Speaker, attributed, line_up
from jointrag.config import EvaluationConfig, ServedConfig
from jointrag.presets import ConfigError, resolve

CHAIN = ("rewriter", "selector", "generator")
BIG = {"big": ServedConfig(base_url="http://host/v1", name="big-model")}


def test_the_whole_line_up_in_order() -> None:
    config = EvaluationConfig(served=BIG, subsets=(("generator", "selector"), ("rewriter", "generator"), CHAIN))
    found = line_up(config, CHAIN, ["mappo", "other", "warm_start", "control"])
    assert [(s.name, s.kind, s.model) for s in found] == [
        ("no_retrieval", "no_retrieval", "warm_start"),
        ("plain_rag", "plain_rag", "warm_start"),
        ("warm_start", "trained", "warm_start"),
        ("control", "trained", "control"),
        ("mappo-selector-generator", "subset", "mappo"),
        ("mappo-rewriter-generator", "subset", "mappo"),  # the whole chain is no subset
        ("mappo", "trained", "mappo"),
        ("other", "trained", "other"),
        ("big", "served", "big"),
    ]
    assert [s.agents for s in found][:3] == [("generator",), ("generator",), CHAIN]
    assert found[4].agents == ("selector", "generator"), "in the chain's order"
    assert attributed(config, found) == ("warm_start", "mappo")


def test_names_of_the_users_own() -> None:
    config = EvaluationConfig(
        baselines=("plain_rag",), baseline_model="after", subsets=(("generator",),), subsets_of=("before",)
    )
    found = line_up(config, CHAIN, ["before", "middle", "after"])
    assert [(s.name, s.model) for s in found] == [
        ("plain_rag", "after"),
        ("before-generator", "before"),
        ("before", "before"),
        ("middle", "middle"),
        ("after", "after"),
    ]
    assert attributed(config, found) == ("before", "after")
    assert attributed(config.model_copy(update={"attribution_of": ("middle",)}), found) == ("middle",)
    assert attributed(config.model_copy(update={"attribution": False}), found) == ()
    everywhere = line_up(EvaluationConfig(baselines=(), subsets=(("generator",),)), CHAIN, ["a", "b"])
    assert [s.name for s in everywhere] == ["a-generator", "a", "b-generator", "b"]
    only_served = line_up(EvaluationConfig(served=BIG), CHAIN, [])
    assert [s.name for s in only_served] == ["no_retrieval", "plain_rag", "big"]
    assert attributed(EvaluationConfig(), only_served) == ()


@pytest.mark.parametrize(
    "config, checkpoints, message",
    [
        (EvaluationConfig(), [], "nothing to evaluate"),
        (EvaluationConfig(baseline_model="gone"), ["mappo"], "baseline_model names 'gone', but the systems are mappo"),
        (EvaluationConfig(subsets_of=("gone",)), ["mappo"], "subsets_of names 'gone'"),
        (EvaluationConfig(attribution_of=("gone",)), ["mappo"], "attribution_of names 'gone'"),
        (EvaluationConfig(), ["plain_rag"], "'plain_rag' names two systems"),
        (EvaluationConfig(served=BIG), ["big"], "'big' names two systems"),
        (EvaluationConfig(subsets=(("generator",),)), ["a", "a-generator"], "'a-generator' names two systems"),
    ],
)
def test_mistakes(config: EvaluationConfig, checkpoints: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        line_up(config, CHAIN, checkpoints)


def test_a_subset_has_agents_of_the_chain() -> None:
    assert resolve("smoke", ["evaluation.subsets=[[selector,generator]]"]).evaluation.subsets
    with pytest.raises(ConfigError, match=r"'selector' is not in agents\.chain, which has rewriter, generator"):
        resolve("smoke", ["evaluation.subsets=[[selector,generator]]", "agents.chain=[rewriter,generator]"])
    with pytest.raises(ConfigError, match="the chain has to end with an agent that gives the answer"):
        resolve("smoke", ["evaluation.subsets=[[rewriter,selector]]"])


def test_a_model_is_loaded_once_and_only_when_it_speaks() -> None:
    loaded: list[object] = []

    def load() -> object:
        loaded.append(object())
        return loaded[-1]

    speaker = Speaker(load)  # type: ignore[arg-type]
    assert loaded == []
    assert speaker.llm is speaker.llm is loaded[0]
    speaker.unload()
    assert speaker.llm is loaded[1]
