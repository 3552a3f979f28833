"""A new agent is one file and one line: the summariser of docs/agents.md, from that page into every stage."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from evaluation.measures import measure
from jointrag.agents import AGENTS, build_chain
from jointrag.config import AgentsConfig, MappoConfig
from jointrag.generation import LocalLM, Sampling
from jointrag.pipeline import answer
from jointrag.presets import resolve, settings
from tests.tiny import QUESTIONS, TINY, FixedRetriever
from trainers.labelling import label
from trainers.mappo.loop import run
from trainers.mappo.policy import Policy
from trainers.warm_start import from_scratch

PAGE = Path(__file__).parents[2] / "docs/agents.md"
CHAIN = ("rewriter", "selector", "summariser", "generator")


@pytest.fixture(autouse=True)
def summariser(tmp_path, monkeypatch):
    """The page's code as a module, registered."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "summariser.py").write_text(code)
    spec = importlib.util.spec_from_file_location("summariser", tmp_path / "summariser.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "summariser", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(AGENTS, "summariser", module.Summariser)
    return module


def make_chain(*names, **sections):
    lengths = {"rewriter": 8, "selector": 6, "summariser": 8, "generator": 4}
    sections = {name: {"max_new_tokens": n, **sections.get(name, {})} for name, n in lengths.items()}
    return build_chain(AgentsConfig.model_validate({"chain": names, "num_candidates": 3, **sections}))


def make_lm(chain):
    torch.manual_seed(0)
    examples = [example for one in label(QUESTIONS, chain, FixedRetriever()) for example in one.examples]
    model, tokenizer = from_scratch(TINY, examples, "cpu")
    return LocalLM(model, tokenizer, TINY.max_length)


def test_its_settings_are_settings_like_any_other():
    config = resolve("smoke", [f"agents.chain=[{','.join(CHAIN)}]", "agents.summariser.max_words=20"]).agents
    assert config.of("summariser").max_words == 20
    assert AgentsConfig.model_validate(config.model_dump(mode="json")) == config
    assert "agents.summariser.max_words" in dict(settings())
    with pytest.raises(ValueError, match=r"unknown setting agents\.summariser\.max_word; did you mean .*max_words\?"):
        resolve("smoke", ["agents.summariser.max_word=20"])


def test_to_register_it_changes_nothing_for_chains_without_it(monkeypatch):
    with_it = resolve("smoke").agents.model_dump(mode="json")
    monkeypatch.delitem(AGENTS, "summariser")
    assert resolve("smoke").agents.model_dump(mode="json") == with_it


def test_where_it_may_stand():
    with pytest.raises(ValueError, match="put 'rewriter' before 'summariser'"):
        make_chain("summariser", "rewriter", "generator")
    with pytest.raises(ValueError, match="end with an agent that gives the answer: generator"):
        make_chain("rewriter", "summariser")


def test_its_labels_are_what_the_generator_learns_to_read():
    one, *_ = label(QUESTIONS, make_chain(*CHAIN), FixedRetriever())
    assert [example.prompt.agent for example in one.examples] == list(CHAIN)
    *_, summary, generated = one.examples
    assert summary.response == "Anna lives in Oslo ."
    assert generated.prompt.content == f"{QUESTIONS[0].text}\nPassage: {summary.response}"


def test_a_model_from_scratch_says_so_when_it_has_never_seen_an_agent():
    without = make_lm(make_chain("rewriter", "selector", "generator"))
    with pytest.raises(ValueError, match="has never seen the summariser: run the warm start again"):
        answer(QUESTIONS, make_chain(*CHAIN), FixedRetriever(), without, Sampling())


def test_penalties(summariser):
    agent = summariser.Summariser(summariser.SummariserConfig(max_words=3))
    one, *_ = label(QUESTIONS, make_chain("generator"), FixedRetriever())
    assert [agent.read(one.episode, said)[1] for said in ("a b c", "a b c d", " ")] == [0.0, -0.5, -0.5]
    assert agent.read(one.episode, " ")[0].passages == one.episode.candidates


def test_the_generator_reads_the_summary_and_evaluation_copes():
    chain = make_chain(*CHAIN)
    sampling = Sampling(1.0, torch.Generator().manual_seed(0))
    episodes = answer(QUESTIONS, chain, FixedRetriever(), make_lm(chain), sampling)
    for episode in episodes:
        assert [turn.agent for turn in episode.turns] == list(CHAIN)
        *_, summary, generated = episode.turns
        assert summary.response
        assert generated.prompt == f"{episode.question.text}\nPassage: {summary.response}"
    scores = measure(episodes)
    assert set(scores.penalised) == set(CHAIN)
    chosen = [len(episode.chosen) for episode in episodes]
    assert scores.num_read == sum(chosen) / len(chosen)  # the passages, not the summaries
    assert scores.read_recall is not None and 0 < scores.read_recall <= 1


@pytest.mark.parametrize("names", [CHAIN, ("summariser", "generator")])
def test_mappo_learns_from_its_turns(tmp_path, names):
    """It alone is trained, so what moves the weights are its turns."""
    chain = make_chain(*names, summariser={"max_words": 5})
    config = MappoConfig(
        num_steps=2,
        questions_per_step=5,
        minibatch_episodes=5,
        learning_rate=1e-3,
        dev_every=0,
        trained=("summariser",),
    )
    policy = Policy(make_lm(chain), config)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    run(config, chain, policy, QUESTIONS, [], FixedRetriever(), seed=0, out=tmp_path)
    assert any(not torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))
    steps = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert all(set(names) == {key.split("/")[1] for key in step if key.endswith("/penalised")} for step in steps)
    assert steps[0]["mappo/summariser/penalised"] > 0
    assert steps[-1]["mappo/summariser/kl"] != 0
