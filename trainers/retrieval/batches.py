"""The order of an epoch: batches without false negatives by duplication, or batches of texts of like length.

In one step all processes together take batch_size × world_size groups; each gets its part, equally many on all. Give
these to the data loader as batch_sampler, and let nobody shard them again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch.utils.data import Sampler

logger = logging.getLogger(__name__)
Key = tuple[int, int]  # (epoch, group)
_TRIED = 16  # per group of a step: how many that wait are tried again, and how many that had their turn after them
_LEFT_OUT = "%d of %d groups are left out of epoch %d: their queries or answers repeat too often for steps of %d"
_WINDOW = 32  # batches' worth of groups that are sorted by length together


@dataclass(frozen=True, slots=True)
class Shown:
    """Hashes of what a group brings into a batch."""

    question: int
    texts: set[int]
    answers: set[int]  # all texts that answer the question, shown or not: no negatives for it


class Source(Protocol):
    """What can be put into batches by length."""

    def __len__(self) -> int: ...

    def length(self, key: Key) -> int: ...


class SourceOfGroups(Source, Protocol):
    """What can be put into batches without duplicates."""

    def shown(self, key: Key) -> Shown: ...


class _Batches(Sampler[list[Key]]):
    """What both orders share: epochs, and this process's part of a step."""

    def __init__(
        self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ) -> None:
        assert 0 <= rank < world_size
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} has to be at least 1")
        self._num_groups = len(source)
        self._seed, self._epoch = seed, 0
        self._rank, self._world_size = rank, world_size
        self._step = batch_size * world_size  # groups of a step, over all processes
        self._drop_last = drop_last
        if not len(self):
            raise ValueError(
                f"{self._num_groups:,} groups are too few for batches of {batch_size} on {world_size} processes; "
                "lower the batch size, or give more data"
            )

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is that epoch's, whatever was iterated before."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._sizes())

    def _sizes(self) -> list[int]:
        """How many groups each step of an epoch takes; the last ones may be fewer, or too few and left over."""
        full, rest = divmod(self._num_groups, self._step)
        rest -= rest % self._world_size
        # One group alone has no other groups' texts for negatives.
        enough = rest >= (self._step if self._drop_last else min(2, self._step))
        return [self._step] * full + [rest] * (rest > 0 and enough)

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch])

    def _part(self, groups: list[int], epoch: int) -> list[Key]:
        """This process's share of a step: equally many for all, the last few may be left over."""
        each = len(groups) // self._world_size
        return [(epoch, group) for group in groups[self._rank * each : (self._rank + 1) * each]]


class BatchesWithoutDuplicates(_Batches):
    """Batches for losses with in-batch negatives, in a new order each epoch.

    No two groups of a step, on whichever process, have the same question, and none shows a text that answers another's
    question: so no two share a positive. They may share negatives, which are wrong for both; mined ones often do. A
    group that does not fit waits for a later batch; what repeats too often is left out of the epoch, which is logged,
    and others have a second turn in its place. Where nothing else fits a batch is smaller.
    """

    def __init__(
        self,
        groups: SourceOfGroups,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        super().__init__(
            groups, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, drop_last=drop_last
        )
        self._groups = groups

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, rng = self._epoch, self._rng()
        coming = iter(rng.permutation(self._num_groups).tolist())
        waiting: deque[tuple[int, Shown]] = deque()
        missing = 0
        for number, size in enumerate(self._sizes(), 1):
            batch = _Batch(size)
            for _ in range(min(len(waiting), _TRIED * self._step)):
                if batch.is_full:
                    break
                if not batch.add(*(candidate := waiting.popleft())):
                    waiting.append(candidate)
            while not batch.is_full and (group := next(coming, None)) is not None:
                if not batch.add(*(candidate := (group, self._groups.shown((epoch, group))))):
                    waiting.append(candidate)
            missing += size - len(batch.groups)
            if not batch.is_full:  # a second turn for some
                for group in rng.integers(self._num_groups, size=_TRIED * self._step).tolist():
                    batch.add(group, self._groups.shown((epoch, group)))
                    if batch.is_full:
                        break
            if len(batch.groups) < self._world_size:
                raise ValueError(
                    f"no {self._world_size} groups have different queries and texts, one for each process; train with "
                    "fewer processes, or give more data"
                )
            if missing and number == len(self):
                level = logging.WARNING if missing > self._num_groups / 100 else logging.INFO
                logger.log(level, _LEFT_OUT, missing, self._num_groups, epoch, self._step)
            yield self._part(batch.groups, epoch)


class _Batch:
    """Groups that go together, and what they bring along."""

    def __init__(self, size: int) -> None:
        self.groups: list[int] = []
        self._size = size
        self._questions: set[int] = set()
        self._texts: set[int] = set()
        self._answers: set[int] = set()

    @property
    def is_full(self) -> bool:
        return len(self.groups) == self._size

    def add(self, group: int, shown: Shown) -> bool:
        """Take the group in, unless one's texts would be false negatives of the other."""
        if (
            shown.question in self._questions
            or not self._texts.isdisjoint(shown.answers)
            or not self._answers.isdisjoint(shown.texts)
        ):
            return False
        self.groups.append(group)
        self._questions.add(shown.question)
        self._texts |= shown.texts
        self._answers |= shown.answers
        return True


class BatchesByLength(_Batches):
    """Batches for losses without in-batch negatives: texts of like length together, in a new order each epoch.

    Groups are shuffled, sorted by length within windows of 32 batches, and the batches of a window shuffled.
    """

    def __init__(
        self, source: Source, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ) -> None:
        super().__init__(
            source, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, drop_last=drop_last
        )
        self._source = source

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, rng = self._epoch, self._rng()
        sizes = self._sizes()
        order = rng.permutation(self._num_groups)
        for first in range(0, len(sizes), _WINDOW):
            window = sizes[first : first + _WINDOW]
            start = first * self._step
            groups = order[start : start + sum(window)].tolist()
            groups.sort(key=lambda group: self._source.length((epoch, group)))
            steps = [groups[i * self._step : i * self._step + size] for i, size in enumerate(window)]
            for i in rng.permutation(len(steps)).tolist():
                yield self._part(steps[i], epoch)
