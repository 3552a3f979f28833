"""A language model whose replies are kept in a file, so that nobody asks, or pays, twice for the same words.

    lm = KeptReplies(ServedLM(config), config.name, Path("replies.jsonl"))
    lm.generate(prompts, 64, GREEDY)   # the second time, and after an interruption: from the file

Greedy replies alone are kept: a sampled one is another every time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from jointrag.generation import Completion, LanguageModel, Sampling
from jointrag.types import Prompt

AT_ONCE = 32  # prompts that are asked before their replies are written down


class KeptReplies:
    """`name`: the model's, so that another one is asked afresh. `path` is made when the first reply comes."""

    def __init__(self, lm: LanguageModel, name: str, path: Path) -> None:
        self._lm, self._name, self._path = lm, name, path
        self._known = _read(path)
        self.num_asked = 0
        """Prompts that the model itself was asked."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        """As the model's own; completions are texts without token ids."""
        if sampling.temperature > 0:
            raise ValueError("only greedy replies are kept; ask the model itself for a sampled one")
        keys = [self._key(prompt, max_new_tokens) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}
        asked = list(new)
        for start in range(0, len(asked), AT_ONCE):
            some = asked[start : start + AT_ONCE]
            replies = self._lm.generate([new[key] for key in some], max_new_tokens, sampling)
            self._keep({key: reply.text for key, reply in zip(some, replies, strict=True)})
        return [Completion(self._known[key]) for key in keys]

    def _key(self, prompt: Prompt, max_new_tokens: int) -> str:
        asked = [self._name, prompt.instructions, prompt.content, prompt.choices, max_new_tokens]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def _keep(self, replies: dict[str, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps([key, text], ensure_ascii=False) + "\n" for key, text in replies.items())
        with self._path.open("a", encoding="utf-8") as file:
            file.write(lines)
        self._known |= replies
        self.num_asked += len(replies)


def _read(path: Path) -> dict[str, str]:
    """What was kept; a line that was cut off by an interruption is taken out of the file."""
    if not path.is_file():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return dict(json.loads(line) for line in whole.splitlines())
    except (ValueError, TypeError):
        raise ValueError(f"{path}: not a file of replies; delete it to have the model asked again") from None
