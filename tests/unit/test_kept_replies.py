"""Replies that are kept: nobody is asked twice, an interruption loses little, another model is asked afresh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from jointrag import kept_replies
from jointrag.generation import GREEDY, Completion, Sampling
from jointrag.kept_replies import KeptReplies
from jointrag.types import Prompt


class Echo:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        if any(prompt.opening == "break" for prompt in prompts):
            raise ConnectionError("gone")
        self.asked += [prompt.opening for prompt in prompts]
        return [Completion(f"{prompt.opening}!\n说") for prompt in prompts]


def prompts(*openings: str) -> list[Prompt]:
    return [Prompt("teacher", "Be brief.", opening) for opening in openings]


def texts(lm: KeptReplies, *openings: str, max_new_tokens: int = 8) -> list[str]:
    return [reply.text for reply in lm.generate(prompts(*openings), max_new_tokens, GREEDY)]


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    echo, path = Echo(), tmp_path / "deep" / "replies.jsonl"
    lm = KeptReplies(echo, "echo", path)
    assert texts(lm, "a", "b", "a") == ["a!\n说", "b!\n说", "a!\n说"]
    again = KeptReplies(echo, "echo", path)
    assert texts(again, "b", "c") == ["b!\n说", "c!\n说"]
    assert echo.asked == ["a", "b", "c"]
    assert again.num_asked == 1


def test_another_model_prompt_or_length_is_another_question(tmp_path: Path) -> None:
    echo, path = Echo(), tmp_path / "replies.jsonl"
    texts(KeptReplies(echo, "echo", path), "a")
    texts(KeptReplies(echo, "other", path), "a")
    texts(KeptReplies(echo, "echo", path), "a", max_new_tokens=9)
    KeptReplies(echo, "echo", path).generate([Prompt("teacher", "Be long.", "a")], 8, GREEDY)
    assert echo.asked == ["a"] * 4


def test_an_error_keeps_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_replies, "AT_ONCE", 2)
    echo, path = Echo(), tmp_path / "replies.jsonl"
    with pytest.raises(ConnectionError):
        texts(KeptReplies(echo, "echo", path), "a", "b", "c", "break")
    assert texts(KeptReplies(echo, "echo", path), "a", "b", "c") == ["a!\n说", "b!\n说", "c!\n说"]
    assert echo.asked == ["a", "b", "c"]


def test_a_line_that_was_cut_off_is_asked_again(tmp_path: Path) -> None:
    echo, path = Echo(), tmp_path / "replies.jsonl"
    texts(KeptReplies(echo, "echo", path), "a", "b")
    path.write_bytes(path.read_bytes()[:-5])
    assert texts(KeptReplies(echo, "echo", path), "a", "b") == ["a!\n说", "b!\n说"]
    assert echo.asked == ["a", "b", "b"]
    assert texts(KeptReplies(echo, "echo", path), "a", "b") == ["a!\n说", "b!\n说"]
    assert echo.asked == ["a", "b", "b"]


def test_a_sampled_reply_is_not_kept_and_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="greedy"):
        KeptReplies(Echo(), "echo", tmp_path / "r").generate(prompts("a"), 8, Sampling(1.0))
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(ValueError, match=r"notes\.txt: not a file of replies"):
        KeptReplies(Echo(), "echo", tmp_path / "notes.txt")
