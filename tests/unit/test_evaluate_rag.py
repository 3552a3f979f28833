"""Checkpoints and served models named by the user: refused before anything runs unless they can be evaluated."""

import json

import pytest

from flows.evaluate_rag import _checkpoint, _with_served
from jointrag.config import ServedConfig
from jointrag.presets import ConfigError, resolve


@pytest.mark.parametrize("name", ["../escape", ".hidden", "a/b", ""])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="checkpoint name"):
        _checkpoint(name, tmp_path)


def test_the_output_of_another_stage_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"stage": "retriever", "fingerprint": "x", "metrics": {}}))
    with pytest.raises(ConfigError, match="is the output of retriever"):
        _checkpoint("after", tmp_path)


def test_a_served_model_is_a_setting_of_the_evaluation():
    overrides = {"evaluation.served.big.num_parallel": 4, "seed": 3}
    config = resolve("smoke", _with_served(overrides, {"big": "http://host:8000/v1#org/model-7b"}))
    assert config.seed == 3
    assert config.evaluation.served == {
        "big": ServedConfig(base_url="http://host:8000/v1", name="org/model-7b", num_parallel=4)
    }


@pytest.mark.parametrize(
    "name, address, message",
    [
        ("big", "http://host:8000/v1", "does not name the model: big=http://host:8000/v1#MODEL"),
        ("v1.5", "http://host:8000/v1#model", "has no dots"),
    ],
)
def test_an_address_that_does_not_say_enough_is_refused(name, address, message):
    with pytest.raises(ConfigError, match=message):
        _with_served({}, {name: address})


def test_a_served_model_cannot_be_trained():
    with pytest.raises(ConfigError, match=r"language_model.type: 'served' is not one of 'scratch', 'pretrained'"):
        resolve("smoke", ["language_model.type=served"])
