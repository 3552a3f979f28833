"""A reranker behind an address.

    Reranker("http://127.0.0.1:8080/rerank")                                     # text-embeddings-inference
    Reranker("https://api.jina.ai/v1/rerank", served_name="jina-reranker-v2-base-multilingual",
             api_key_variable="JINA_KEY")
    Reranker("http://127.0.0.1:8000/v1", served_name="Qwen/Qwen3-8B")            # a chat model, asked pair by pair

Three forms. `tei`: {query, texts} to [{index, score}]. `cohere`: {model, query, documents} to {results: [{index,
relevance_score}]}, as Cohere, Jina, Voyage and vLLM have it. `chat`: an OpenAI-compatible server is asked whether the
document helps, and the score is log p(yes) − log p(no) of the first token; where the server gives no log-probabilities,
the word: 1 for yes, −1 for no, 0 for neither.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jointrag.config import ServedConfig
from jointrag.progress import progress
from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.loading import Loading
from jointrag.rankers.prompts import CHAT_TASK
from jointrag.rankers.results import Score
from jointrag.rankers.writing import Limits
from jointrag.served import ServedLM

logger = logging.getLogger(__name__)
FORMS = ("tei", "cohere", "chat")
_NUM_LOGPROBS = 20  # the most that servers give


class Served(Ranker):
    """See the module. Requests are tried again as in jointrag.served."""

    def __init__(
        self,
        name: str,
        loading: Loading,
        *,
        served_name: str | None = None,
        form: str | None = None,
        api_key_variable: str | None = None,
        texts_per_request: int = 32,
        num_parallel: int = 16,
        timeout_s: float = 120.0,
        instruction: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """`name`: the address. `served_name`: what the server calls the model. `form`: where the address does not say
        it. `api_key_variable`: the environment variable that holds the key. `instruction`: what a chat model is asked.
        `extra`: put into every request: {"truncate": True}, {"chat_template_kwargs": {"enable_thinking": False}} …

        Raises ValueError for an address of which the form cannot be told, or without the model that it needs.
        """
        url = name.rstrip("/").removesuffix("/chat/completions")
        self.form = _form(url, served_name) if form is None else form
        if self.form not in FORMS:
            raise ValueError(f"form={form!r} is none of {', '.join(FORMS)}")
        if self.form != "tei" and not served_name:
            raise ValueError(f"{name}: say which model of the server, served_name=…")
        settings = {"api_key_variable": api_key_variable, "num_parallel": num_parallel, "timeout_s": timeout_s}
        self._server = ServedLM(ServedConfig.model_validate({"base_url": url, "name": served_name or "", **settings}))
        self._url, self._model, self._extra = url, served_name, dict(extra or {})
        self._task = instruction or CHAT_TASK
        self._logprobs = True
        self.batch_size = 1 if self.form == "chat" else texts_per_request

    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        return [found[0].value for found in self.score(pairs, Limits(self.max_length))]

    def score(self, pairs: Sequence[Pair], limits: Limits, *, show_progress: bool = False) -> list[list[Score]]:
        requests = list(self._requests(pairs))
        step = 8 * self._server.config.num_parallel  # under way between two moves of the bar
        starts = range(0, len(requests), step)
        values: list[float] = []
        for start in progress(starts, "ranking, requests") if show_progress else starts:
            for found in self._server.together(self._ask, requests[start : start + step]):
                values += found
        return [[Score(value)] for value in values]

    def normalize(self, score: float) -> float:
        """What servers of rerankers give is between 0 and 1 already, mostly."""
        return super().normalize(score) if self.form == "chat" else min(1.0, max(0.0, score))

    def _requests(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        """Neighbouring pairs of one query, as many as go into a request."""
        requests: list[list[Pair]] = []
        for pair in pairs:
            if not requests or requests[-1][0][0] != pair[0] or len(requests[-1]) == self.batch_size:
                requests.append([])
            requests[-1].append(pair)
        return list(requests)

    def _ask(self, pairs: Sequence[Pair]) -> list[float]:
        if self.form == "chat":
            return [self._ask_chat(pair) for pair in pairs]
        query, texts = pairs[0][0], [text for _, text in pairs]
        body = {"query": query, "texts": texts}
        if self.form == "cohere":
            body = {"model": self._model, "query": query, "documents": texts}
        response = self._server.post(self._url, body | self._extra)
        try:
            said = response.json()
            if self.form == "cohere":
                said = said.get("results") or said["data"]
            of = "score" if self.form == "tei" else "relevance_score"
            scores = {int(one["index"]): float(one[of]) for one in said}
        except (AttributeError, LookupError, TypeError, ValueError):
            raise ValueError(
                f"{self._url} did not answer in the form {self.form} ({response.text[:200]!r}); "
                f"form= one of {', '.join(FORMS)}"
            ) from None
        if sorted(scores) != list(range(len(texts))):
            raise ValueError(
                f"{self._url} gave scores for the texts {sorted(scores)} of {len(texts)}, not for each one"
            )
        return [scores[i] for i in range(len(texts))]

    def _ask_chat(self, pair: Pair) -> float:
        asked = f"Query: {pair[0]}\n\nDocument: {pair[1]}\n\n{self._task}"
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": asked}],
            "max_tokens": 4,
            "temperature": 0.0,
        }
        given = {"logprobs": True, "top_logprobs": _NUM_LOGPROBS} if self._logprobs else {}
        url = self._server.url
        try:
            response = self._server.post(url, body | given | self._extra)
        except ValueError as error:
            if not given or "logprobs" not in str(error):
                raise
            logger.warning("%s gives no log-probabilities: documents are told apart by yes and no alone", url)
            self._logprobs = False
            return self._ask_chat(pair)
        try:
            choice = response.json()["choices"][0]
            tokens = (choice.get("logprobs") or {}).get("content") or []
            if tokens and tokens[0].get("top_logprobs"):
                return _odds([(one["token"], float(one["logprob"])) for one in tokens[0]["top_logprobs"]])
            return _word(choice["message"]["content"] or "")
        except (AttributeError, LookupError, TypeError, ValueError):
            raise ValueError(
                f"{url} did not answer as an OpenAI-compatible server does ({response.text[:200]!r}); its address "
                "usually ends in /v1"
            ) from None


def _form(url: str, served_name: str | None) -> str:
    """Raises ValueError for an address that does not say it."""
    if url.endswith("/rerank"):
        return "cohere" if served_name else "tei"
    if url.endswith("/v1"):
        return "chat"
    raise ValueError(
        f"{url}: an address ends in /rerank (a reranker) or in /v1 (a chat model); or give form= one of "
        f"{', '.join(FORMS)}"
    )


def _odds(candidates: Sequence[tuple[str, float]]) -> float:
    """log p(yes) − log p(no) of the first token, in any spelling. One that is not among the most likely is at most as
    likely as the last of them; with neither, nothing is known: 0."""
    found: dict[str, float] = {}
    for token, logprob in candidates:
        word = _plain(token)
        if word in ("yes", "no"):
            found[word] = found.get(word, 0.0) + math.exp(logprob)
    if not found:
        return 0.0
    least = min(math.exp(logprob) for _, logprob in candidates)
    yes, no = (math.log(max(found.get(word, least), 1e-30)) for word in ("yes", "no"))
    return yes - no


def _word(answer: str) -> float:
    first = (answer.rpartition("</think>")[2].split() or [""])[0]
    return {"yes": 1.0, "no": -1.0}.get(_plain(first), 0.0)


def _plain(word: str) -> str:
    return word.strip(" \n\t.,;:!*\"'▁Ġ").lower()
