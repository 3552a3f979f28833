"""A language model behind an OpenAI-compatible server: vLLM, `transformers serve`, an API.

    lm = ServedLM(ServedConfig(base_url="http://127.0.0.1:8000/v1", name="Qwen/Qwen3-8B"))
    completions = lm.generate(prompts, max_new_tokens=32, sampling=GREEDY)

Its responses are texts, without token ids or log-probabilities: it can be evaluated, not trained. Nor can its tokens be
restricted: where a prompt has choices, the agent that asked reads whatever was written and charges bad form.

    logprobs = lm.response_logprobs(turns)   # of responses that are given: jointrag.likelihood, on a server

This needs a server that returns the log-probabilities of its prompt: completions with `echo` and `logprobs`, as vLLM
has and `transformers serve` has not.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from jointrag.config import ServedConfig
from jointrag.generation import Completion, Sampling
from jointrag.types import Prompt, Turn

T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger(__name__)

TRIES = 6
FIRST_PAUSE_S = 0.5  # doubled after every try: 15 s in all, unless the server says how long to wait
LONGEST_PAUSE_S = 60.0
WORTH_ANOTHER_TRY = (408, 409, 429, 500, 502, 503, 504)
_NEEDED = (
    "Scoring a given text needs a server that returns the log-probabilities of its prompt: vLLM does, transformers "
    "serve does not. Take such a server, or a model in this process"
)
LOCAL = ("localhost", "127.0.0.1", "::1")


class ServerUnavailable(ConnectionError):
    """The server did not answer, or only with errors, as often as it was asked."""


class ServedLM:
    """See the module. Raises ValueError when the variable that should hold the API key is not set."""

    def __init__(self, config: ServedConfig) -> None:
        self.config = config
        base_url = config.base_url.rstrip("/")
        self.url = f"{base_url}/chat/completions"
        self.completions_url = f"{base_url}/completions"
        self._session = requests.Session()
        self._session.mount(base_url, HTTPAdapter(pool_maxsize=config.num_parallel))
        if urlsplit(base_url).hostname in LOCAL:
            self._session.trust_env = False  # a proxy from the environment has no business with a local server
        if config.api_key_variable is not None:
            self._session.auth = _Bearer(_key(config))

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int, sampling: Sampling) -> list[Completion]:
        """One completion per prompt, in order; `num_parallel` requests are under way at a time.

        Raises ValueError for a request that the server refuses, ServerUnavailable when it does not answer.
        """
        seeds = _seeds(len(prompts), sampling)
        bodies = [
            self._body(prompt, max_new_tokens, sampling, seed) for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return self.together(self._answer, bodies)

    def response_logprobs(self, turns: Sequence[Turn]) -> list[list[float]]:
        """Log-probabilities of each turn's response tokens after its prompt tokens, at temperature 1. The turns carry
        token ids: the server's tokenizer has to be the one that made them.

        Raises ValueError for a server that does not return the log-probabilities of its prompt; see also `generate`.
        """
        return self.together(self._ask_logprobs, turns)

    def together(self, ask: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """What `ask` gives for each item, in order, `num_parallel` at a time."""
        pool = ThreadPoolExecutor(self.config.num_parallel)
        try:
            return list(pool.map(ask, items))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the rest need not be asked

    def _body(self, prompt: Prompt, max_new_tokens: int, sampling: Sampling, seed: int | None) -> dict[str, Any]:
        messages = [{"role": "system", "content": prompt.instructions}] if prompt.instructions else []
        body: dict[str, Any] = {
            "model": self.config.name,
            "messages": [*messages, {"role": "user", "content": prompt.content}],
            "max_tokens": max_new_tokens,
            "temperature": sampling.temperature,
        }
        if sampling.temperature > 0:
            # top_k is no part of OpenAI's own API: a server that does not know it may refuse it
            truncation = {"top_p": sampling.top_p if sampling.top_p < 1 else None, "top_k": sampling.top_k}
            body |= {name: value for name, value in truncation.items() if value is not None}
        return body if seed is None else body | {"seed": seed}

    def _answer(self, body: dict[str, Any]) -> Completion:
        response = self.post(self.url, body)
        try:
            said = response.json()
            text = said["choices"][0]["message"]["content"] or ""
            usage = said.get("usage") or {}
            counts = (int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(_no_openai(self.url, response)) from None
        return Completion(text=text.strip(), num_served_tokens=counts)

    def _ask_logprobs(self, turn: Turn) -> list[float]:
        ids = [*turn.prompt_ids, *turn.response_ids]
        # some servers refuse to write nothing, so one token is written and left aside
        body = {"model": self.config.name, "prompt": ids, "max_tokens": 1, "temperature": 0.0}
        try:
            response = self.post(self.completions_url, body | {"echo": True, "logprobs": 1})
        except ValueError as error:
            raise ValueError(f"{error}. {_NEEDED}") from None
        try:
            choice = response.json()["choices"][0]
            logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(_no_openai(self.completions_url, response)) from None
        if len(logprobs) < 2:
            raise ValueError(
                f"{self.completions_url} answered without the log-probabilities of its prompt, though asked with echo "
                f"and logprobs. {_NEEDED}"
            )
        found = logprobs[len(turn.prompt_ids) : len(ids)]
        if len(logprobs) not in (len(ids), len(ids) + 1) or not all(isinstance(value, float | int) for value in found):
            raise ValueError(
                f"{self.completions_url} returned {len(logprobs)} log-probabilities for {len(ids)} tokens of "
                f"{self.config.name!r} and one more: it does not read token ids as they are; take another server"
            )
        return [float(value) for value in found]

    def post(self, url: str, body: dict[str, Any]) -> requests.Response:
        """The answer to a request, tried again where that may help. Raises what `generate` raises."""
        pause_s = FIRST_PAUSE_S
        for left in reversed(range(TRIES)):
            wait_s: float | None = None
            try:
                response = self._session.post(url, json=body, timeout=self.config.timeout_s)
            except (requests.ConnectionError, requests.Timeout) as error:
                problem = f"no answer ({error})"
            else:
                if response.ok:
                    return response
                problem = f"{response.status_code}: {_message(response)}"
                if response.status_code not in WORTH_ANOTHER_TRY:
                    raise ValueError(f"{url} refused a request for model {self.config.name!r}: {problem}")
                wait_s = _retry_after(response)
            if left:
                wait_s = min(pause_s if wait_s is None else wait_s, LONGEST_PAUSE_S)
                logger.warning("%s, model %s: %s; trying again in %.1f s", url, self.config.name, problem, wait_s)
                time.sleep(wait_s)
                pause_s *= 2
        raise ServerUnavailable(
            f"{url}, model {self.config.name!r}, asked {TRIES} times: {problem}; is the server running and not "
            "overloaded? A larger timeout_s or a smaller num_parallel helps if it is only slow"
        )


def _no_openai(url: str, response: requests.Response) -> str:
    said = f"{response.text[:200]!r}"
    return f"{url} did not answer as an OpenAI-compatible server does ({said}); base_url usually ends in /v1"


class _Bearer(AuthBase):
    """The API key on every request; as the session's own auth, so that no entry in ~/.netrc replaces it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _key(config: ServedConfig) -> str:
    assert config.api_key_variable is not None
    if not (key := os.environ.get(config.api_key_variable, "").strip()):
        raise ValueError(
            f"the API key for {config.base_url} should be in the environment variable {config.api_key_variable}, which "
            "is not set; export it, or name another one in api_key_variable"
        )
    return key


def _seeds(count: int, sampling: Sampling) -> list[int | None]:
    """A seed per prompt from the generator, so that sampling repeats as far as the server lets it."""
    if sampling.temperature == 0 or sampling.generator is None:
        return [None] * count
    import torch

    generator = sampling.generator
    return torch.randint(2**31, (count,), generator=generator, device=generator.device).tolist()


def _message(response: requests.Response) -> str:
    """What the server says went wrong, in any of the usual forms."""
    try:
        said = response.json()
    except ValueError:
        return response.text[:500] or str(response.reason)
    if isinstance(said, dict):
        said = said.get("error") or said.get("detail") or said
    if isinstance(said, dict):
        said = said.get("message") or said
    return str(said)[:500]


def _retry_after(response: requests.Response) -> float | None:
    """Seconds the server asks to wait; None where it names none (or a date)."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
