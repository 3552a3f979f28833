"""An LLM judge behind a server that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import jointrag.kept_replies
import jointrag.served
from evaluation.judge import Judge, verdict
from jointrag.config import JudgeConfig
from jointrag.served import ServerUnavailable
from jointrag.types import Episode, Question
from tests.answering import Asked, Said, answering

ANSWERS = ("Paris", "the capital of France", "Lyon", " ", "Paris")
EPISODES = [Episode(Question(f"q{i}", "Where?", ("Paris", "Lutetia")), answer=a) for i, a in enumerate(ANSWERS)]


class Grader:
    """Says yes to whatever names Paris or its country, and counts."""

    def __init__(self, reply: Callable[[str], str] | None = None) -> None:
        self.asked: list[str] = []
        self.reply = reply or (lambda answer: "No." if "Lyon" in answer else "Yes")
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Said:
        system, user = asked.body["messages"]
        assert "Reply with one word" in system["content"]
        assert (asked.body["temperature"], asked.body["model"]) == (0, "grader")
        with self._lock:
            self.asked.append(user["content"])
        answer = user["content"].rpartition("Answer to grade: ")[2]
        return Said({"choices": [{"message": {"content": self.reply(answer)}}]})


def config(url: str, **changes: object) -> JudgeConfig:
    return JudgeConfig.model_validate({"base_url": f"{url}/v1", "name": "grader", "num_parallel": 2} | changes)


def test_verdicts_are_asked_for_once_and_kept(tmp_path: Path) -> None:
    grader = Grader()
    with answering(grader) as url:
        found = Judge(config(url), tmp_path).verdicts(EPISODES)
        assert [(v.id, v.right) for v in found] == [
            ("q0", True), ("q1", True), ("q2", False), ("q3", False), ("q4", True)
        ]  # fmt: skip
        assert found[3].reply == "", "an answer of nothing is wrong without asking"
        assert len(grader.asked) == 3, "the same answer to the same question is judged once"
        assert "Accepted answers:\n- Paris\n- Lutetia\n" in grader.asked[0]
        again = Judge(config(url), tmp_path).verdicts(EPISODES)
        assert again == found and len(grader.asked) == 3, "what was said is kept on disk"
        Judge(config(url, max_new_tokens=99), tmp_path).verdicts(EPISODES[:1])
        assert len(grader.asked) == 4, "another question to the judge"


def test_what_came_before_it_went_away_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jointrag.served, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(jointrag.kept_replies, "AT_ONCE", 1)
    grader = Grader()

    def fails_on_lyon(asked: Asked) -> Said:
        return Said("down", 503) if "grade: Lyon" in asked.body["messages"][-1]["content"] else grader(asked)

    with answering(fails_on_lyon) as url:
        with pytest.raises(ServerUnavailable, match=r"model 'grader', asked 6 times: 503: down; is the server running"):
            Judge(config(url, num_parallel=1), tmp_path).verdicts(EPISODES)
        assert len(grader.asked) == 2
        assert "Yes" in (tmp_path / "replies.jsonl").read_text()


def test_a_reply_without_a_verdict_counts_as_no(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with answering(Grader(lambda answer: "Hm.")) as url:
        found = Judge(config(url), tmp_path).verdicts(EPISODES[:2])
    assert [v.right for v in found] == [False, False]
    assert "2 of 2 replies of the judge say neither yes nor no and count as no, for example 'Hm.'" in caplog.text


@pytest.mark.parametrize(
    "reply, expected",
    [
        ("yes", True),
        ("No.", False),
        ("**Yes**", True),
        ("It names Lyon, not Paris. No", False),
        ("<think>yes? no?</think>yes", True),
        ("<think>yes, but", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_reading_a_reply(reply: str, expected: bool | None) -> None:
    assert verdict(reply) is expected
