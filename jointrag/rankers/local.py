"""Rankers that are a model in this process: tokens in batches of like length, the next texts tokenised meanwhile.

Pairs are taken longest first. A block of them is tokenised in a thread of its own while the model reads the one before;
what is left of a block joins the next. Padding is small, so what a batch costs is its tokens, and a budget of tokens
rather than a number of pairs says how large it is. A GPU that runs out of memory gets half of the budget from then on.
Scores do not depend on what else is in a batch.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from jointrag.by_length import num_together
from jointrag.progress import progress
from jointrag.rankers.base import Pair, Ranker
from jointrag.rankers.loading import num_positions
from jointrag.rankers.results import Score
from jointrag.rankers.writing import Limits, Piece, Writing

logger = logging.getLogger(__name__)
BLOCK = 256  # pairs that are tokenised together
MOST_PADDING = 0.1  # of a batch's tokens
WORTH_A_BATCH = 512  # tokens below which a batch may be padded more


@dataclass(frozen=True, slots=True)
class Read:
    """A piece and the pair it is a part of."""

    pair: int
    query: str
    piece: Piece
    unread_tokens: int


class LocalRanker(Ranker):
    """Subclasses say how a pair is written (`writing`) and what the model makes of a batch (`forward`)."""

    reads_windows = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        writing: Writing,
        *,
        max_length: int,
        tokens_per_forward: int | None = None,
        left: bool = False,
    ) -> None:
        """`left`: padding goes before the tokens, so that the last place of every row is its last token."""
        self.model, self.tokenizer, self.writing, self.left = model, tokenizer, writing, left
        self.max_length = max_length
        self._num_positions = num_positions(model)
        self.device = next(model.parameters()).device
        self.tokens_per_forward = tokens_per_forward or (65_536 if self.device.type == "cuda" else 4_096)
        known = (model.config.get_text_config().pad_token_id, tokenizer.pad_token_id)
        self._pad_id = next((one for one in known if one is not None and one >= 0), 0)  # the model's own comes first

    @abstractmethod
    def forward(self, batch: Sequence[Read]) -> torch.Tensor:
        """Scores [batch]; `tensors` has the tokens."""

    def score_batch(self, pairs: Sequence[Pair]) -> list[float]:
        return [found[0].value for found in self.score(pairs, Limits(self.max_length))]

    def score(self, pairs: Sequence[Pair], limits: Limits, *, show_progress: bool = False) -> list[list[Score]]:
        if not pairs:
            return []
        if self._num_positions is not None and limits.max_length > self._num_positions:
            raise ValueError(f"max_length={limits.max_length}, but the model has positions for {self._num_positions}")
        found: list[list[Score]] = [[] for _ in pairs]
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][1]))
        blocks = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
        with torch.inference_mode(), ThreadPoolExecutor(1) as tokenising:
            ahead = tokenising.submit(self.read, pairs, blocks[0], limits)
            waiting: list[Read] = []
            for following in progress([*blocks[1:], []], "scoring, block") if show_progress else [*blocks[1:], []]:
                waiting += ahead.result()
                if following:
                    ahead = tokenising.submit(self.read, pairs, following, limits)
                waiting.sort(key=lambda read: -len(read.piece.ids))
                waiting = self._score_all(waiting, found, limits.windows, keep_rest=bool(following))
        for scores in found:  # windows in the order of the text
            scores.sort(key=lambda score: score.window.start_token if score.window else 0)
        return found

    def read(self, pairs: Sequence[Pair], block: Sequence[int], limits: Limits) -> list[Read]:
        """What goes through the model of those `pairs` whose places are in `block`."""
        queries, documents = [pairs[i][0] for i in block], [pairs[i][1] for i in block]
        reads = []
        for i, written in zip(block, self.writing.write(queries, documents, limits), strict=True):
            pieces, unread = written.pieces(limits)
            reads += [Read(i, pairs[i][0], piece, unread) for piece in pieces]
        return reads

    def _score_all(self, reads: list[Read], found: list[list[Score]], windows: bool, *, keep_rest: bool) -> list[Read]:
        """Scores into `found`; the reads that are better left for a fuller batch."""
        lengths = [len(read.piece.ids) for read in reads]
        start = 0
        while start < len(reads):
            count = num_together(lengths[start:], self.tokens_per_forward, MOST_PADDING, WORTH_A_BATCH)
            batch = reads[start : start + count]
            if keep_rest and start + len(batch) == len(reads):
                return reads[start:]
            for read, value in zip(batch, self._score(batch), strict=True):
                window = read.piece.window if windows else None
                found[read.pair].append(Score(value, window, read.unread_tokens))
            start += len(batch)
        return []

    def _score(self, batch: list[Read]) -> list[float]:
        try:
            return self.forward(batch).float().cpu().tolist()
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
        torch.cuda.empty_cache()
        self.tokens_per_forward = max(1, self.tokens_per_forward // 2)
        logger.warning("out of memory: going on with %d tokens at a time", self.tokens_per_forward)
        return [value for part in _halves(batch) for value in self._score(part)]

    def tensors(self, batch: Sequence[Read]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids and mask [batch, longest], and [batch] how many tokens, padding on the left included, are before
        the document."""
        pieces = [read.piece for read in batch]
        width = max(len(piece.ids) for piece in pieces)
        ids = torch.full((len(pieces), width), self._pad_id)
        mask = torch.zeros((len(pieces), width), dtype=torch.long)
        first = torch.empty(len(pieces), dtype=torch.long)
        for row, piece in enumerate(pieces):
            start = width - len(piece.ids) if self.left else 0
            ids[row, start : start + len(piece.ids)] = torch.tensor(piece.ids)
            mask[row, start : start + len(piece.ids)] = 1
            first[row] = start + piece.num_first
        return ids.to(self.device), mask.to(self.device), first.to(self.device)


def _halves(batch: list[Read]) -> tuple[list[Read], list[Read]]:
    middle = len(batch) // 2
    return batch[:middle], batch[middle:]
