"""The order of an epoch: batches in which nothing occurs twice, or batches of texts of like length.

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
_LOOKED_BACK = 32  # batches' worth of postponed groups that are tried again for each batch
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
        # One group alone has no other groups' texts for negatives.
        self._smallest = self._step if drop_last else max(world_size, min(2, self._step))
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
        full, rest = divmod(self._num_groups, self._step)
        return full + (rest >= self._smallest)

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch])

    def _part(self, groups: list[int], epoch: int) -> list[Key]:
        """This process's share of a step: equally many for all, the last few may be left over."""
        each = len(groups) // self._world_size
        return [(epoch, group) for group in groups[self._rank * each : (self._rank + 1) * each]]


class BatchesWithoutDuplicates(_Batches):
    """Batches for losses with in-batch negatives, in a new order each epoch.

    No two groups of a step, on whichever process, share a question or a text, and none shows a text that answers
    another's question. A group that does not fit waits for a later batch. What repeats too often is left out of the
    epoch, with a warning: then fewer batches than `len` come, or smaller ones.
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
        epoch = self._epoch
        coming = iter(self._rng().permutation(self._num_groups).tolist())
        postponed: deque[tuple[int, Shown]] = deque()
        left = self._num_groups
        for number in range(1, len(self) + 1):
            batch = self._next(epoch, coming, postponed)
            enough = len(batch) >= self._smallest
            left -= len(batch) if enough else 0
            if (not enough or number == len(self)) and left >= self._step:
                logger.warning(
                    "%d of %d groups are left out of epoch %d: their texts repeat too often for batches of %d",
                    left,
                    self._num_groups,
                    epoch,
                    self._step,
                )
            if not enough:
                return
            yield self._part(batch, epoch)

    def _next(self, epoch: int, coming: Iterator[int], postponed: deque[tuple[int, Shown]]) -> list[int]:
        """The groups of a step, as many as fit together; those that do not are (again) postponed."""
        batch: list[int] = []
        questions: set[int] = set()
        texts: set[int] = set()
        answers: set[int] = set()

        def candidates() -> Iterator[tuple[int, Shown]]:
            for _ in range(min(len(postponed), _LOOKED_BACK * self._step)):
                yield postponed.popleft()
            for group in coming:
                yield group, self._groups.shown((epoch, group))

        for group, shown in candidates():
            if (
                shown.question in questions
                or not texts.isdisjoint(shown.texts)
                or not texts.isdisjoint(shown.answers)
                or not answers.isdisjoint(shown.texts)
            ):
                postponed.append((group, shown))
                continue
            batch.append(group)
            questions.add(shown.question)
            texts |= shown.texts
            answers |= shown.answers
            if len(batch) == self._step:
                break
        return batch


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
        order = rng.permutation(self._num_groups)
        window = _WINDOW * self._step
        for start in range(0, self._num_groups, window):
            groups = sorted(
                order[start : start + window].tolist(), key=lambda group: self._source.length((epoch, group))
            )
            batches = [groups[i : i + self._step] for i in range(0, len(groups), self._step)]
            for i in rng.permutation(len(batches)).tolist():
                if len(batches[i]) >= self._smallest:
                    yield self._part(batches[i], epoch)
