"""What an epoch shows of each record: a query with some of its texts, and batches in which nothing occurs twice.

groups = Groups(records, mode="one_positive", num_negatives=7, seed=0)
batches = BatchesWithoutDuplicates(groups, batch_size=32, seed=0)
for batch in batches:                       # [(epoch, i), …]
    learner.collate([groups[key] for key in batch])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch.utils.data import Dataset, Sampler

from trainers.retrieval.records import Records

Mode = Literal["one_positive", "sampled_positive", "all_texts"]
Key = tuple[int, int]  # (epoch, group)


@dataclass(frozen=True, slots=True)
class Group:
    """A query and texts to be told apart; a positive is first. Labels are aligned with the texts."""

    query: str
    texts: tuple[str, ...]
    labels: tuple[float, ...]  # 1 and 0, or the file's scores


class Groups(Dataset[Group]):
    """Records as groups. What `groups[epoch, i]` draws depends on (seed, epoch, i) alone.

    "one_positive": a group per (query, positive); "sampled_positive": a group per record with a positive drawn anew
    each epoch, both with `num_negatives` drawn; "all_texts": a group per record, `max_texts` of its texts at most.
    """

    def __init__(
        self,
        records: Records,
        *,
        mode: Mode,
        seed: int,
        num_negatives: int = 0,
        max_texts: int | None = None,
        labels: Literal["auto", "binary", "scores"] = "auto",
        min_label: float | None = None,
        max_label: float | None = None,
        pad: Literal["repeat"] | None = None,
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: Key) -> Group:
        raise NotImplementedError


class BatchesWithoutDuplicates(Sampler[list[Key]]):
    """Batches of keys in a new order each epoch; no two groups of a batch share a query or a text.

    With several processes the promise holds for their batches together, and all get equally many of equal size: give
    it to the data loader as its batch_sampler, and let nobody shard it again.
    """

    def __init__(
        self, groups: Groups, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1, drop_last: bool = False
    ) -> None:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[list[Key]]:
        raise NotImplementedError
