"""Sampled episodes as a table, for people: what the agents asked, read and wrote, and what it earned them.

The loop logs these rows under one name every `samples_every` steps. MLflow adds rows to a table of the same name, so a
run has one table, `episodes.json`, to sort and filter by its column `step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jointrag.types import Episode, Passage

MAX_CHARACTERS = 280  # of a passage, and of what an agent wrote


def sample_rows(episodes: Sequence[Episode], rewards: Sequence[float], step: int, count: int) -> list[dict[str, Any]]:
    """`count` of the step's episodes as rows (all, where there are fewer), spread evenly so that they are of different
    questions. Cells are numbers and text; lists are a line per item."""
    count = min(count, len(episodes))
    chosen = [i * len(episodes) // count for i in range(count)]
    return [{"step": step, **_row(episodes[i], rewards[i])} for i in chosen]


def _row(episode: Episode, reward: float) -> dict[str, Any]:
    read = episode.chosen
    row: dict[str, Any] = {
        "question": episode.question.text,
        "gold": " | ".join(episode.question.answers),
        "answer": episode.answer,
        "reward": round(reward, 4),
        "sub-questions": "\n".join(episode.sub_questions),
        "passages": "\n".join(_line(passage, passage in read) for passage in episode.candidates),
        "chosen": ", ".join(passage.id for passage in read),
    }
    if episode.condensed is not None:
        row["condensed"] = "\n".join(_shortened(passage.contents) for passage in episode.condensed)
    for turn in episode.turns:
        row[f"{turn.agent} wrote"] = _shortened(turn.response)
        row[f"{turn.agent} penalty"] = turn.penalty
    return row


def _line(passage: Passage, was_read: bool) -> str:
    title = f"{passage.title}: " if passage.title else ""
    return f"{'✓' if was_read else '–'} [{passage.id}] {_shortened(title + passage.text)}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1].rstrip()}…"
