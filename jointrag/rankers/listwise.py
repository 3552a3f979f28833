"""A chat model that orders passages, many at a time: RankGPT's sliding window (Sun et al., 2023), zero-shot.

    Listwise("Qwen/Qwen3-8B", Loading())
    Listwise("gpt-4o-mini", Loading(), base_url="https://api.openai.com/v1", api_key_variable="OPENAI_API_KEY")

The window begins at the end of the list and moves to its head, so that good passages move up with it: the order given
matters, and should be the retriever's. What the model writes is repaired: numbers that are none of the window's or
occur again are left out, passages it forgot follow in the order they had. A score is the place, from 1 down to 1/n.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from jointrag.config import PretrainedLM, ServedConfig
from jointrag.generation import GREEDY, LanguageModel, LocalLM
from jointrag.progress import progress
from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.loading import Loading
from jointrag.rankers.results import Score
from jointrag.rankers.writing import Limits
from jointrag.types import Prompt

logger = logging.getLogger(__name__)
_DTYPES = {"torch.float32": "float32", "torch.bfloat16": "bfloat16", "torch.float16": "float16"}
_INSTRUCTIONS = (
    "You order passages by how well they answer a query. You write nothing but the numbers of all passages, the best "
    "first, like this: [2] > [3] > [1]"
)
_NO_THINKING = "{%- set enable_thinking = false -%}"
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


class Listwise(Ranker):
    """See the module."""

    by_query = True

    def __init__(
        self,
        name: str,
        loading: Loading,
        *,
        window: int = 20,
        step: int = 10,
        base_url: str | None = None,
        api_key_variable: str | None = None,
        num_parallel: int = 16,
        timeout_s: float = 120.0,
        max_new_tokens: int | None = None,
        lm: LanguageModel | None = None,
    ) -> None:
        """`base_url`: of an OpenAI-compatible server that has the model `name`; else it is loaded here. `lm`: a model
        that is there already. The loading's max_length is how many words of a passage are shown, 300 by default."""
        if not 0 < step <= window or window < 2:
            raise ValueError(f"window={window}, step={step}: the window moves by 1 to {max(window, 2)} of 2 or more")
        self.window, self.step = window, step
        self.max_length = loading.max_length or 300
        self.max_new_tokens = max_new_tokens or 6 * window + 8
        if lm is not None:
            self.lm = lm
        elif base_url is not None:
            from jointrag.served import ServedLM

            settings = {"api_key_variable": api_key_variable, "num_parallel": num_parallel, "timeout_s": timeout_s}
            self.lm = ServedLM(ServedConfig.model_validate({"base_url": base_url, "name": name, **settings}))
        else:
            self.lm = _local(name, loading)

    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        return [found[0].value for found in self.score(pairs, Limits(self.max_length))]

    def score(self, pairs: Sequence[Pair], limits: Limits, *, show_progress: bool = False) -> list[list[Score]]:
        """The windows of all queries move together: a model that batches is asked about many at a time."""
        shown = [_beginning(text, limits.max_length) for _, text in pairs]
        groups: list[list[int]] = []  # a query's pairs, best first as far as known
        for batch in self._batches(pairs):
            start = sum(map(len, groups))
            groups.append(list(range(start, start + len(batch))))
        places = [_windows(len(group), self.window, self.step) for group in groups]
        turns = range(max(map(len, places), default=0))
        asked = repaired = 0
        for turn in progress(turns, "ranking, window") if show_progress else turns:
            now = [i for i, windows in enumerate(places) if turn < len(windows)]
            parts = [groups[i][slice(*places[i][turn])] for i in now]
            prompts = [_prompt(pairs[part[0]][0], [shown[k][0] for k in part]) for part in parts]
            answers = self.lm.generate(prompts, self.max_new_tokens, GREEDY)
            for i, part, answer in zip(now, parts, answers, strict=True):
                order, complete = permutation(answer.text, len(part))
                groups[i][slice(*places[i][turn])] = [part[k] for k in order]
                asked, repaired = asked + 1, repaired + (not complete)
        if repaired:
            logger.warning("%d of %d answers were no full order and were repaired", repaired, asked)
        scores: list[list[Score]] = [[] for _ in pairs]
        for group in groups:
            for place, i in enumerate(group):
                scores[i] = [Score((len(group) - place) / len(group), None, shown[i][1])]
        return scores

    def normalize(self, score: float) -> float:
        return score


def permutation(answer: str, count: int) -> tuple[list[int], bool]:
    """The order that an answer gives to `count` passages, from 0, and whether it was one before it was repaired."""
    said = [int(number) - 1 for number in re.findall(r"\d+", answer.rpartition("</think>")[2])]
    known = list(dict.fromkeys(i for i in said if 0 <= i < count))
    return [*known, *(i for i in range(count) if i not in known)], known == said and len(known) == count


def _windows(count: int, window: int, step: int) -> list[tuple[int, int]]:
    """Start and end of each window over a list, the list's end first; none for a single text."""
    windows: list[tuple[int, int]] = []
    end = count
    while count > 1:
        windows.append((max(0, end - window), end))
        if end <= window:
            break
        end -= step
    return windows


def _prompt(query: str, passages: Sequence[str]) -> Prompt:
    numbered = "\n".join(f"[{i}] {' '.join(passage.split())}" for i, passage in enumerate(passages, 1))
    content = f"Query: {query}\n\n{numbered}\n\nQuery: {query}\nThe {len(passages)} passages, the best first:"
    return Prompt("ranker", _INSTRUCTIONS, content)


def _beginning(text: str, max_words: int) -> tuple[str, int]:
    """As many words of a text as are shown, and how many are not; a Chinese or Japanese character is a word."""
    words = list(_WORD.finditer(text))
    if len(words) <= max_words:
        return text, 0
    return text[: words[max_words - 1].end()], len(words) - max_words


def _local(name: str, loading: Loading) -> LocalLM:
    """A model in this process, which does not think aloud."""
    from transformers import AutoConfig

    try:
        positions = getattr(AutoConfig.from_pretrained(name), "max_position_embeddings", 4096)
        dtype = _DTYPES[str(loading.precision())]
        config = PretrainedLM.model_validate({"name": name, "dtype": dtype, "max_length": positions})
        lm = LocalLM.load(name, config, str(loading.where()))
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"{name!r} cannot be loaded as a language model ({error})") from None
    if lm.tokenizer.chat_template:
        lm.tokenizer.chat_template = _NO_THINKING + str(lm.tokenizer.chat_template)
    return lm
