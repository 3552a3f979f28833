"""What docs/reranking.md shows works as it says."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jointrag import Reranker
from jointrag.rankers import kinds

TEXT = (Path(__file__).parents[2] / "docs" / "reranking.md").read_text(encoding="utf-8")


@pytest.fixture
def shared_words(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The docs' class, in a module as their reader would have it, and its line in KINDS."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    module = ModuleType("my_ranker")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, "my_ranker", module)
    monkeypatch.setitem(kinds.KINDS, "shared_words", "my_ranker:SharedWords")
    return module.__dict__["SharedWords"]


def test_a_ranker_of_ones_own(shared_words: Any) -> None:
    documents = ["the play", None, "Goethe wrote the play"]
    ranking = Reranker(shared_words("", None)).rank("who wrote the play", documents)
    assert [(one.index, one.score) for one in ranking][:2] == [(2, 3.0), (0, 2.0)]
    by_kind = Reranker("any", kind="shared_words", ignore=["the", "play"])
    assert by_kind.score([("who wrote the play", "Goethe wrote the play")]) == [1.0]


def test_every_kind_has_its_row_and_options_are_real() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", TEXT, re.MULTILINE))
    assert list(rows) == list(kinds.KINDS)
    for kind, options in rows.items():
        module, _, name = kinds.KINDS[kind].partition(":")
        known = signature(getattr(import_module(module), name)).parameters
        assert set(re.findall(r"`(\w+)`", options)) <= set(known), kind
