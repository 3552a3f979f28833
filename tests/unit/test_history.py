"""What the report takes from MAPPO's own records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.history import History, kept_sentence, kept_step, read_history


def test_history_is_read_with_its_gaps_and_words(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(
        '{"step": 1, "mappo/kl": NaN, "note": "text"}\n'
        '{"step": 2, "mappo/kl": 0.5, "watchdog": "KL is 30"}\n'
        '{"step": 3, "watchdog": ""}\n'
    )
    found = read_history(path)
    assert found.steps == ({"step": 1.0}, {"step": 2.0, "mappo/kl": 0.5}, {"step": 3.0})
    assert found.warnings == ((2, "KL is 30"),)
    assert found.num_steps == 3


def test_a_line_that_is_no_step_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"mappo/kl": 0.5}\n')
    with pytest.raises(ValueError, match=r"history\.jsonl, line 2"):
        read_history(path)
    with pytest.raises(ValueError, match="nowhere: no such file; train mappo first"):
        read_history(tmp_path / "nowhere")


def records(**metrics: float) -> list[dict[str, Any]]:
    return [
        {"stage": "prepare", "seconds": 1.0, "cached": True, "metrics": {"mappo/kept_step": 99.0}},
        {"stage": "mappo", "metrics": {f"mappo/{name}": value for name, value in metrics.items()}},
    ]


def test_which_weights_were_kept() -> None:
    history = History(tuple({"step": float(i)} for i in range(201)))
    assert kept_sentence(records(kept_step=150, kept_dev_f1=0.623), history) == (
        "The weights of step 150 of 200 were kept (F1 62.3): later ones answered the dev questions clearly worse."
    )
    assert "were kept (F1 50.0): every step answered the dev questions worse" in kept_sentence(
        records(kept_step=0, kept_dev_f1=0.5), history
    )
    assert kept_sentence(records(kept_step=200, kept_dev_f1=0.7), history) == ""  # the last: nothing to explain
    assert kept_sentence(records(), history) == ""
    assert kept_sentence([{"stage": "mappo", "seconds": 1.0}], history) == ""
    assert kept_step(records(kept_step=150)) == 150
    assert kept_step([]) is None
