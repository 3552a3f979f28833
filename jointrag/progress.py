"""One progress display: a live bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
logger = logging.getLogger(__name__)


def progress(items: Iterable[T], what: str, total: int | None = None, every_s: float = 5.0) -> Iterator[T]:
    """Yield `items`, showing how far it got: `what 120/600 · 20% · 41 s left`."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every_s and count != total:
            last = now
            if total:
                left_s = (now - start) / count * (total - count)
                logger.info("%s %d/%d · %d%% · %d s left", what, count, total, 100 * count // total, left_s)
            else:
                logger.info("%s %d", what, count)
