"""One model on several devices: this process has the first, every other has a process of its own.

    Reranker("BAAI/bge-reranker-v2-m3", devices=["cuda:0", "cuda:1"])

Pairs are dealt out longest first, so that all have as much to read. Such a process is `python -m` this module, and so a
caller's script needs no `if __name__ == "__main__"`. Requests and answers are pickles in its pipes; it ends with its
input, that is, with its owner.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.kinds import make
from jointrag.rankers.loading import Loading
from jointrag.rankers.results import Score
from jointrag.rankers.writing import Limits

_END_S = 10.0  # how long a process may take to end by itself


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    kind: str | None
    loading: Loading
    options: dict[str, Any]
    num_threads: int


@dataclass(frozen=True, slots=True)
class _Request:
    pairs: Sequence[Pair]
    limits: Limits
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Failed:
    is_mistake: bool  # of the user: a ValueError
    text: str


class Processes(Ranker):
    """A ranker that is a model of this process, and copies of it on other devices. Scores are those of one device."""

    def __init__(
        self, name: str, kind: str | None, loading: Loading, options: dict[str, Any], devices: Sequence[str]
    ) -> None:
        """Raises ValueError for fewer than two devices, and for a model that is not in this process."""
        if len(devices) < 2 or isinstance(devices, str):
            raise ValueError(f"devices={devices!r}: a list of two or more is expected; one is device=")
        import torch

        num_threads = max(1, torch.get_num_threads() // len(devices))
        models = [_Model(name, kind, replace(loading, device=one), options, num_threads) for one in devices[1:]]
        self._others = [_Process(model) for model in models]  # they load meanwhile
        try:
            self.first = make(name, kind, replace(loading, device=devices[0]), options)
            if not self.first.reads_windows:
                raise ValueError(f"{type(self.first).__name__} has no model on a device here; leave devices out")
            for other in self._others:
                other.answer()
        except BaseException:
            for other in self._others:
                other.close()
            raise
        self.reads_windows, self.max_length = True, self.first.max_length
        self._settings: dict[str, Any] = {}
        self._lock = threading.Lock()

    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        return [found[0].value for found in self.score(pairs, Limits(self.max_length))]

    def normalize(self, score: float) -> float:
        return self.first.normalize(score)

    def with_settings(self, **settings: Any) -> Processes:
        changed = copy(self)
        changed.first = self.first.with_settings(**settings)
        changed._settings = self._settings | settings
        return changed

    def score(self, pairs: Sequence[Pair], limits: Limits, *, show_progress: bool = False) -> list[list[Score]]:
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][1]))
        count = 1 + len(self._others)
        shares = [order[start::count] for start in range(count)]
        with self._lock:
            for other, share in zip(self._others, shares[1:], strict=True):
                other.ask(_Request([pairs[i] for i in share], limits, self._settings))
            mine = partial(self.first.score, [pairs[i] for i in shares[0]], limits, show_progress=show_progress)
            answers = self._all([mine, *(other.answer for other in self._others)])
        found: list[list[Score]] = [[] for _ in pairs]
        for share, scores in zip(shares, answers, strict=True):
            for i, score in zip(share, scores, strict=True):
                found[i] = score
        return found

    def _all(self, askings: Sequence[Callable[[], list[list[Score]]]]) -> list[list[list[Score]]]:
        """Every answer. After a user's mistake all are read, too, or the next call would take them for its own; after
        anything else the other processes are of no more use."""
        answers, mistakes = [], []
        try:
            for ask in askings:
                try:
                    answers.append(ask())
                except ValueError as error:
                    mistakes.append(error)
        except BaseException:
            for other in self._others:
                other.close()
            raise
        if mistakes:
            raise mistakes[0]
        return answers


class _Process:
    """The model on one device, seen from its owner."""

    def __init__(self, model: _Model) -> None:
        self._device = model.loading.device
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jointrag.rankers.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self.close = weakref.finalize(self, _end, self._process)
        self.ask(model)

    def ask(self, what: _Model | _Request) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(what, self._process.stdin)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # ValueError: closed by us, after another process failed
            raise RuntimeError(self._gone()) from None

    def answer(self) -> Any:
        assert self._process.stdout is not None
        try:
            found = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise RuntimeError(self._gone()) from None
        if isinstance(found, _Failed):
            raise ValueError(found.text) if found.is_mistake else RuntimeError(f"{self._device}: {found.text}")
        return found

    def _gone(self) -> str:
        return f"the process on {self._device} has ended (exit code {self._process.wait()}); its messages are above"


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---- in the process --------------------------------------------------------------------------------------------------


def main() -> int:
    """Loads the model that comes first on standard input, then answers requests until it ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    ranker: Any = None
    while True:
        try:
            what = pickle.load(sys.stdin.buffer)
        except EOFError:
            return 0
        try:
            if ranker is None:
                ranker = _load(what)
                found: Any = ranker.max_length
            else:
                chosen = ranker.with_settings(**what.settings) if what.settings else ranker
                found = chosen.score(what.pairs, what.limits)
        except Exception as error:
            found = _Failed(isinstance(error, ValueError), str(error) or type(error).__name__)
        pickle.dump(found, answers)
        answers.flush()


def _load(model: _Model) -> Ranker:
    import torch

    torch.set_num_threads(model.num_threads)
    return make(model.name, model.kind, model.loading, model.options)


if __name__ == "__main__":
    from jointrag.rankers import processes

    # classes of this module, not of __main__: pickles name them; _exit: nothing is left to do that torch's end is worth
    os._exit(processes.main())
