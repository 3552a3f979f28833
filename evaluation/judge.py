"""An LLM behind an OpenAI-compatible server says whether an answer is right; what it said is kept.

    judge = Judge(config.judge, Path("runs/judge"))
    verdicts = judge.verdicts(episodes)          # one per episode; raises when the server cannot be reached

This file holds the prompt. The judge sees the question, the accepted answers and the answer, not who gave it. It is
asked greedily, once per prompt and model (jointrag.kept_replies). An answer of nothing is wrong without asking.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jointrag.config import JudgeConfig
from jointrag.generation import GREEDY
from jointrag.kept_replies import KeptReplies
from jointrag.progress import progress
from jointrag.served import ServedLM
from jointrag.types import Episode, Prompt

logger = logging.getLogger(__name__)

INSTRUCTIONS = (
    "You grade answers to questions. You are given a question, the answers that are accepted, and an answer to grade. "
    "The answer is right if it means the same as one of the accepted ones: another spelling, another form of a date or "
    "a name, and harmless further words do not matter. It is wrong if it names something else as well, leaves the "
    "question open, or contradicts itself. Do not use knowledge of your own. Reply with one word: yes if it is right, "
    "no if it is wrong."
)
AT_ONCE = 512
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one question's answer. `reply`: the judge's words; "" where it was not asked."""

    id: str
    right: bool
    reply: str


class Judge:
    """See the module. `folder`: where replies are kept, for all evaluations."""

    def __init__(self, config: JudgeConfig, folder: Path) -> None:
        self.config = config
        self._llm = KeptReplies(ServedLM(config), f"{config.name} at {config.base_url}", folder / "replies.jsonl")

    def verdicts(self, episodes: Sequence[Episode], what: str = "judge") -> list[Verdict]:
        """One per episode, in order. A reply without a verdict counts as wrong, and is reported in the log.

        Raises jointrag.served.ServerUnavailable and ValueError; replies that had come by then are kept.
        """
        found: list[Verdict] = []
        unclear: list[str] = []
        for start in progress(range(0, len(episodes), AT_ONCE), what):
            batch = episodes[start : start + AT_ONCE]
            asked = [prompt(episode) for episode in batch if episode.answer.strip()]
            said = iter(self._llm.generate(asked, self.config.max_new_tokens, GREEDY))
            for episode in batch:
                reply = next(said).text if episode.answer.strip() else ""
                right = verdict(reply) if reply or episode.answer.strip() else False
                if right is None:
                    unclear.append(reply)
                found.append(Verdict(episode.question.id, bool(right), reply))
        if unclear:
            logger.warning(
                "%d of %d replies of the judge say neither yes nor no and count as no, for example %.80r; a larger "
                "evaluation.judge.max_new_tokens helps where it was cut off",
                *(len(unclear), len(found), unclear[0]),
            )
        return found


def prompt(episode: Episode) -> Prompt:
    """What the judge is asked about an answer."""
    accepted = "\n".join(f"- {answer}" for answer in episode.question.answers)
    content = f"Question: {episode.question.text}\nAccepted answers:\n{accepted}\nAnswer to grade: {episode.answer}"
    return Prompt("judge", INSTRUCTIONS, content)


def verdict(reply: str) -> bool | None:
    """The last yes or no of a reply, thoughts aside; None: there is none."""
    words = _VERDICT.findall(_THOUGHTS.sub(" ", reply))
    return words[-1].lower() == "yes" if words else None
