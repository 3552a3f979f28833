"""How a stage that failed says why."""

from __future__ import annotations

import pytest

from jointrag.config import ServedConfig
from jointrag.generation import GREEDY
from jointrag.served import ServedLM
from jointrag.types import Prompt
from tasks.child import explain


def test_a_server_that_is_gone_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    gone = ServedLM(ServedConfig(base_url="http://127.0.0.1:9/v1", name="m"))
    with pytest.raises(ConnectionError) as failed:
        gone.generate([Prompt("generator", "", "Who?")], 4, GREEDY)
    said = explain(failed.value)
    assert said.startswith("http://127.0.0.1:9/v1/chat/completions, model 'm', asked ")
    assert "is the server running" in said
    assert capsys.readouterr().out == ""


def test_what_others_raise_is_told_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for function, error in ((lambda: 1 / 0, ZeroDivisionError), (_refuse, ConnectionRefusedError)):
        with pytest.raises(error) as failed:
            function()
        assert explain(failed.value).startswith(f"{error.__name__}: ")
        assert "Traceback" in capsys.readouterr().out


def _refuse() -> None:
    raise ConnectionRefusedError(111, "Connection refused")
