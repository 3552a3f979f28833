"""A question agent by agent, and how the terminal shows it."""

from __future__ import annotations

import json

from jointrag.ask_command import lines
from jointrag.asking import ask
from jointrag.types import Passage
from tests.asking import PASSAGES, QUESTION, SAID, Finds, Scripted, system


def test_parts_come_agent_by_agent() -> None:
    parts = list(ask(system(), QUESTION))
    assert [part.agent for part in parts] == ["rewriter", "selector", "generator"]
    assert [part.is_done for part in parts] == [False, False, True]
    said = [part.to_dict() for part in parts]
    assert [one["answer"] for one in said] == [None, None, "Zavrazhye"]
    assert said[0]["sub_questions"] == ["Who directed Solaris?", "Where was Andrei Tarkovsky born?"]
    assert [p["selected"] for p in said[0]["passages"]] == [None] * 4
    assert [p["selected"] for p in said[1]["passages"]] == [True, False, True, False]
    assert [p["number"] for p in said[2]["passages"]] == [1, 2, 3, 4]
    assert said[2]["turns"][1] == {"agent": "selector", "response": "Document0,Document2", "penalty": 0.0}
    assert said[0]["seconds"] <= said[2]["seconds"]
    json.dumps(said)


def test_without_a_selector_all_are_read_and_without_a_rewriter_the_question_is_searched_for() -> None:
    (part,) = ask(system("mappo", None, "generator"), QUESTION)
    said = part.to_dict()
    assert said["sub_questions"] == [QUESTION]
    assert [p["selected"] for p in said["passages"]] == [True] * 4


def shown(said: dict[str, str] | None = None, *agents: str, width: int = 100, max_lines: int | None = 2) -> str:
    asked = system("mappo", Scripted(SAID | (said or {})), *agents)
    return "\n".join(lines(asked, QUESTION, ask(asked, QUESTION), width, max_lines))


def test_the_terminal_shows_the_chain() -> None:
    text = shown()
    rows = [line.split(None, 1) for line in text.splitlines()]
    assert ["question", QUESTION] in rows
    assert "rewriter    1. Who directed Solaris?\n            2. Where was Andrei Tarkovsky born?\n" in text
    assert "passages    ✓ [1] Solaris: Solaris is a film of 1972" in text
    assert "\n              [2] Stalker: " in text
    assert "\n            ✓ [3] Andrei Tarkovsky: " in text
    assert "\nanswer      Zavrazhye\n" in text
    assert all(len(line) < 100 for line in text.splitlines())
    assert text.count("Much was shot twice.") < 10 < shown(max_lines=None).count("Much was shot twice.")


def test_the_terminal_says_when_nothing_is_read() -> None:
    assert "none of them is read" in shown({"selector": ""})
    assert "none of them is read" not in shown()
    assert "✓ [4]" in shown({}, "generator")
    assert "answer      (nothing)" in shown({"generator": " "})


def test_parts_are_shown_as_they_come() -> None:
    asked = system()
    printed = lines(asked, QUESTION, ask(asked, QUESTION), 100, 2)
    llm = asked.llm
    assert isinstance(llm, Scripted)
    assert next(printed).startswith("question") and llm.asked == []


def test_nothing_from_the_data_moves_the_cursor() -> None:
    class Hostile(Finds):
        def search(self, queries, k):  # type: ignore[no-untyped-def]
            hits = super().search(queries, k)
            odd = Passage("p", "\x1b[2J\x1b]0;title\x07", "text\r\x1b[31mred\u202e")
            return [[hit.__class__(odd, 1.0)] for hit, *_ in hits]

    asked = system("mappo", Scripted(SAID | {"generator": "an\x1b[1mswer"}), retriever=Hostile())
    text = "\n".join(lines(asked, "q\x1b[0m", ask(asked, "q"), 80, 2))
    assert not set(text) & set("\x1b\x07\r\u202e")


def test_a_narrow_terminal_still_gets_it() -> None:
    assert "Zavrazhye" in shown(width=10)
    assert len(PASSAGES) == 4
