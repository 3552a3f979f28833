"""Batches made ready while the model works on the one before.

A thread is enough: tokenizers let go of Python's lock. A worker process would have to send its tensors over.

transformers' Trainer wants a DataLoader, and skips batches after a resume by skipping keys of its batch sampler. So
the data set's items are whole batches here, keyed by (epoch, step), and a skipped batch costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from torch.utils.data import Dataset, Sampler

_DEPTH = 2  # batches ready or under way besides the one in use


class Ahead(Dataset[Any]):
    """`ahead[epoch, step]` is the collated batch; the next ones are then made ready. Steps are asked for in order."""

    def __init__(self, collate: Callable[[Sequence[Any]], Any], data: Any, batches: Sampler[list[Any]]) -> None:
        self.batches = batches
        self._collate, self._data = collate, data
        self._epoch = -1
        self._keys: list[list[Any]] = []
        self._pending: dict[int, Future[Any]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collate")

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, step = key
        if epoch != self._epoch:
            self._pending.clear()
            self.batches.set_epoch(epoch)  # type: ignore[attr-defined]
            self._epoch, self._keys = epoch, list(self.batches)
        for later in range(step, min(step + 1 + _DEPTH, len(self._keys))):
            if later not in self._pending:
                self._pending[later] = self._thread.submit(self._make, self._keys[later])
        return self._pending.pop(step).result()

    def settle(self) -> None:
        """Until nothing is tokenised any more: a tokenizer cannot serve two threads."""
        wait(self._pending.values())

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _make(self, keys: list[Any]) -> Any:
        return self._collate([self._data[key] for key in keys])


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
