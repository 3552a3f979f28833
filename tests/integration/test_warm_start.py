"""The warm start with the real SFTTrainer: a tiny model learns its examples; adapters leave a plain model behind."""

import json

import pytest

from jointrag.config import ControlConfig, Lora, PretrainedLM, WarmStartConfig
from jointrag.generation import GREEDY, LocalLM
from jointrag.jsonl import read_jsonl, write_jsonl
from jointrag.types import Example
from tests.tiny import AGENTS, QUESTIONS, TINY, FixedRetriever, chain, tiny_lm
from trainers.labelling import label
from trainers.warm_start import train, train_control

FAST = WarmStartConfig(num_epochs=250, learning_rate=5e-3, batch_size=8, prompt_loss_weight=0.1)


@pytest.fixture
def agent_data(tmp_path):
    labelled = [example for one in label(QUESTIONS, chain(), FixedRetriever()) for example in one.examples]
    for name in ("warm_start", "control", "reading"):
        write_jsonl(tmp_path / "agent_data" / f"{name}.jsonl", labelled)
    return tmp_path / "agent_data"


@pytest.fixture
def pretrained(tmp_path):
    lm = tiny_lm()
    lm.model.save_pretrained(tmp_path / "base")
    lm.tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_model_from_scratch_learns_every_agents_examples(agent_data, tmp_path):
    metrics = train(FAST, TINY, AGENTS, agent_data=agent_data, seed=0, out=tmp_path / "out")
    lm = LocalLM.load(tmp_path / "out" / "model", TINY, "cpu")
    found = list(read_jsonl(agent_data / "warm_start.jsonl", Example))
    answers = [lm.generate([example.prompt], 8, GREEDY)[0].text for example in found]
    pairs = [(said.replace(" ", ""), e.response.replace(" ", "")) for said, e in zip(answers, found, strict=True)]
    assert sum(said == wanted for said, wanted in pairs) >= 14, pairs  # of 15
    assert metrics["warm_start/loss"] < 1
    assert metrics["warm_start/examples"] == len(found)


def test_reading_comes_first_where_asked_for(agent_data, tmp_path):
    config = FAST.model_copy(update={"num_epochs": 1, "reading_epochs": 2})
    metrics = train(config, TINY, AGENTS, agent_data=agent_data, seed=0, out=tmp_path / "out")
    assert metrics["reading/loss"] > 0
    assert metrics["warm_start/loss"] > 0


@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8)])
def test_a_pretrained_model_is_left_plain(agent_data, pretrained, tmp_path, lora):
    import torch

    model = PretrainedLM(type="pretrained", name=str(pretrained), dtype="float32", lora=lora, max_length=256)
    config = FAST.model_copy(update={"num_epochs": 4, "gradient_accumulation": 2})
    train(config, model, AGENTS, agent_data=agent_data, seed=0, out=tmp_path / "out")
    assert not list((tmp_path / "out" / "model").glob("adapter*"))
    before = LocalLM.load(pretrained, model, "cpu").model.state_dict()
    after = LocalLM.load(tmp_path / "out" / "model", model, "cpu").model.state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_control_trains_for_as_long_as_mappo_did(agent_data, pretrained, tmp_path):
    (tmp_path / "mappo").mkdir()
    (tmp_path / "mappo" / "manifest.json").write_text(json.dumps({"metrics": {"mappo/train_seconds": 1.0}}))
    (tmp_path / "warm").mkdir()
    pretrained.rename(tmp_path / "warm" / "model")
    metrics = train_control(
        ControlConfig(learning_rate=1e-3, batch_size=4),
        TINY,
        AGENTS,
        agent_data=agent_data,
        warm_start=tmp_path / "warm",
        mappo=tmp_path / "mappo",
        seed=0,
        out=tmp_path / "out",
    )
    assert 1.0 <= metrics["control/train_seconds"] < 20.0
    assert (tmp_path / "out" / "model" / "config.json").is_file()


def test_an_example_that_is_too_long_is_named_before_anything_is_trained(agent_data, tmp_path):
    short = TINY.model_copy(update={"max_length": 10})
    with pytest.raises(ValueError, match=r"a rewriter prompt of \d+ tokens without any passage"):
        train(FAST, short, AGENTS, agent_data=agent_data, seed=0, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
