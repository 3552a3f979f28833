"""Batches made ready while the model works on the one before.

A thread is enough: tokenizers let go of Python's lock. A worker process would have to send its tensors over.

transformers' Trainer wants a DataLoader, and skips batches after a resume by skipping keys of its batch sampler. So
the data set's items are whole batches here, keyed by (epoch, step), and a skipped batch costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from torch.utils.data import Dataset, Sampler

_DEPTH = 2  # batches ready or under way besides the one in use
_KEPT = 64  # batches that are there to be shown again


class Batches(Protocol):
    """Lists of keys, in another order each epoch: trainers.retrieval.batches."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[list[Any]]: ...
    def set_epoch(self, epoch: int) -> None: ...


class Ahead(Dataset[Any]):
    """`ahead[epoch, step]` is the collated batch; the next ones are then made ready. Steps are asked for in order."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any], data: Any, batches: Batches) -> None:
        self.batches = batches
        self._collate, self._data = collate, data
        self._epoch = -1
        self._coming: Iterator[list[Any]] = iter(())
        self._num_seen = 0
        self._first: list[list[Any]] = []
        self._pending: dict[int, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collate")

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, step = key
        if epoch != self._epoch:
            self._start(epoch)
        for later in range(step, min(step + 1 + _DEPTH, len(self.batches))):
            if later not in self._pending:
                self._pending[later] = self._thread.submit(self._make, later)
        return self._pending.pop(step).result()

    def settle(self) -> None:
        """Until nothing is tokenised any more: a tokenizer cannot serve two threads."""
        wait(self._pending.values())

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _start(self, epoch: int) -> None:
        self.settle()
        self._pending.clear()
        self.batches.set_epoch(epoch)
        self._epoch, self._coming, self._num_seen, self._first = epoch, iter(self.batches), 0, []

    def _make(self, step: int) -> Any:
        return self._collate([self._data[key] for key in self._keys(step)])

    def _keys(self, step: int) -> list[Any]:
        """The keys of this batch. An epoch that ends early begins anew: Trainer counts on its steps after a resume."""
        keys: list[Any] = []
        while self._num_seen <= step:
            following = next(self._coming, None)
            if following is None:
                return self._first[(step - self._num_seen) % len(self._first)]
            keys = following
            self._num_seen += 1
            if len(self._first) < _KEPT:
                self._first.append(keys)
        return keys


class Steps(Sampler[list[tuple[int, int]]]):
    """The keys of Ahead, one a batch."""

    def __init__(self, batches: Sized) -> None:
        self._batches = batches
        self._epoch = 0

    @property
    def batch_sampler(self) -> Steps:
        """Trainer sets the epoch on the batch sampler's batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(self._epoch, step)] for step in range(len(self._batches)))
