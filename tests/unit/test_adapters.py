"""Adapters per agent: each speaks with its own, playing changes nothing about what is trained, folders come back."""

import pytest
import torch

from jointrag.adapters import adapters_off, play, save_model, with_adapters
from jointrag.config import Lora
from jointrag.generation import GREEDY, LocalLM
from jointrag.types import Prompt
from tests.tiny import QUESTIONS, TINY, tiny_lm

AGENTS = ("rewriter", "generator")


def prompts(agent: str) -> list[Prompt]:
    return [Prompt(agent, "", question.text) for question in QUESTIONS]


def texts(lm: LocalLM, agent: str) -> list[str]:
    return [completion.text for completion in lm.generate(prompts(agent), 6, GREEDY)]


def adapted(*names: str) -> LocalLM:
    """The tiny model, its adapters no longer at zero."""
    lm = tiny_lm()
    lm.model = with_adapters(lm.model, Lora(r=4), names)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return lm


def trained(lm: LocalLM) -> set[str]:
    return {name for name, parameter in lm.model.named_parameters() if parameter.requires_grad}


def test_fresh_adapters_change_nothing():
    lm = tiny_lm()
    before = texts(lm, "generator")
    lm.model = with_adapters(lm.model, Lora(r=4), AGENTS)
    assert texts(lm, "generator") == before


def test_every_agent_speaks_with_its_own_adapter():
    plain, lm = tiny_lm(), adapted(*AGENTS)
    said = {agent: texts(lm, agent) for agent in AGENTS}
    assert said["generator"] == texts(lm, "generator")  # whoever spoke in between
    for agent, other in zip(AGENTS, reversed(AGENTS), strict=True):
        assert said[agent] != texts(plain, agent)
        lm.model.delete_adapter(agent)  # type: ignore[operator]
        with pytest.raises(ValueError, match=f"adapters for {other}, but none for {agent}"):
            texts(lm, agent)
        lm = adapted(*AGENTS)


def test_an_agent_without_its_own_uses_the_shared_one():
    lm = adapted("default", "critic")
    said = texts(lm, "rewriter")
    play(lm.model, "critic")
    assert lm.model.active_adapter == "critic"
    assert texts(lm, "rewriter") == said
    assert lm.model.active_adapter == "default"


def test_what_is_trained_stays_what_was_trained():
    lm = adapted(*AGENTS)
    everything = trained(lm)
    assert {name.split(".")[-2] for name in everything} == set(AGENTS)
    with adapters_off(lm.model):
        pass
    assert trained(lm) == everything
    texts(lm, "generator")
    assert trained(lm) == everything
    lm.model.requires_grad_(False)
    play(lm.model, "rewriter")
    assert not trained(lm)


def test_without_adapters_the_model_is_what_it_was():
    plain, lm = tiny_lm(), adapted(*AGENTS)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), adapters_off(lm.model):
        torch.testing.assert_close(lm.model(ids).logits, plain.model(ids).logits)
    with torch.no_grad():
        assert not torch.allclose(lm.model(ids).logits, plain.model(ids).logits)


def test_agents_do_not_mix_in_one_call():
    with pytest.raises(AssertionError, match="one agent at a time"):
        tiny_lm().generate([*prompts("rewriter"), *prompts("generator")], 2, GREEDY)


@pytest.mark.parametrize("names", [AGENTS, (*AGENTS, "critic"), ("default",), ("default", "critic"), ()])
def test_a_saved_folder_speaks_alike(names, tmp_path):
    lm = adapted(*names) if names else tiny_lm()
    said = {agent: texts(lm, agent) for agent in AGENTS}
    save_model(lm.model, tmp_path, AGENTS)
    lm.tokenizer.save_pretrained(tmp_path)
    saved = {path.name for path in tmp_path.glob("adapters/*") if path.is_dir()}
    assert saved == set(names) & set(AGENTS)
    loaded = LocalLM.load(tmp_path, TINY, "cpu")
    assert {agent: texts(loaded, agent) for agent in AGENTS} == said
