"""Checkpoints named by the user: refused before anything runs unless they can be evaluated."""

import json

import pytest

from flows.evaluate_rag import _checkpoint
from jointrag.presets import ConfigError


@pytest.mark.parametrize("name", ["../escape", ".hidden", "a/b", ""])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="checkpoint name"):
        _checkpoint(name, tmp_path)


def test_the_output_of_another_stage_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"stage": "retriever", "fingerprint": "x", "metrics": {}}))
    with pytest.raises(ConfigError, match="is the output of retriever"):
        _checkpoint("after", tmp_path)
